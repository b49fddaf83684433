# Tier 1. At the root of the repository: docker build -f docker/llama.Dockerfile -t orpheus-llama .
# llama.cpp is compiled for one generation of GPUs, 89 for L4, L40S and RTX 40. Others: --build-arg
# CUDA_ARCHITECTURES=75 (T4), 80 (A100), 86 (A10, RTX 30), 90 (H100), 120 (RTX 50), or several: "80;89".
# The compiler takes 1 to 1.5 GB for each file: --build-arg COMPILE_JOBS=4 where memory is scarcer than cores.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
ARG CUDA_ARCHITECTURES=89
ARG COMPILE_JOBS=
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake git ninja-build python3 python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt ./
COPY cmake/llama_cpp_lean.cmake /cmake/
RUN --mount=from=ghcr.io/astral-sh/uv:0.13.8,source=/uv,target=/bin/uv \
    uv venv --python /usr/bin/python3 /venv \
    && export CMAKE_BUILD_PARALLEL_LEVEL="${COMPILE_JOBS:-$(nproc)}" \
    && CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES} -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=/cmake/llama_cpp_lean.cmake" \
    uv pip install --python /venv --no-cache --no-binary llama-cpp-python \
    -r pyproject.toml --extra llama --extra otel -c constraints.txt

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 libgomp1 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /weights && chown 1000:1000 /weights
COPY --from=build /venv /venv
WORKDIR /app
COPY pyproject.toml constraints.txt LICENSE THIRD_PARTY_NOTICES.md ./
COPY orpheus orpheus
USER 1000:1000
ENV PATH=/venv/bin:$PATH HF_HOME=/weights ORPHEUS_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 5006
ENTRYPOINT ["python", "-m", "orpheus", "llama"]
