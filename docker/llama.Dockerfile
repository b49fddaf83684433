# Tier 1. At the root of the repository: docker build -f docker/llama.Dockerfile -t orpheus-llama .
# llama.cpp is compiled for one generation of GPUs, 89 for L4, L40S and RTX 40. Others: --build-arg
# CUDA_ARCHITECTURES=75 (T4), 80 (A100), 86 (A10, RTX 30), 90 (H100), 120 (RTX 50).
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
ARG CUDA_ARCHITECTURES=89
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake git ninja-build python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt .
RUN python3 -m venv /venv \
    && CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES} -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAVA_BUILD=OFF" \
    /venv/bin/pip install --no-cache-dir -c constraints.txt --no-binary llama-cpp-python \
    fastapi starlette pydantic uvicorn websockets httpx huggingface_hub pydantic-settings typer rich prometheus-client \
    numpy llama-cpp-python

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 libgomp1 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /weights && chown 1000:1000 /weights
COPY --from=build /venv /venv
COPY orpheus /app/orpheus
WORKDIR /app
USER 1000:1000
ENV HF_HOME=/weights ORPHEUS_LLAMA_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 5006
ENTRYPOINT ["/venv/bin/python", "-m", "orpheus", "llama"]
