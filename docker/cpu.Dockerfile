# Both tiers without a GPU. At the root of the repository: docker build -f docker/cpu.Dockerfile -t orpheus-cpu .
# llama.cpp is compiled for any x86-64 processor with AVX2; torch is the build without CUDA, a tenth of the size.
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake git ninja-build \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt ./
COPY cmake/llama_cpp_lean.cmake /cmake/
RUN --mount=from=ghcr.io/astral-sh/uv:0.13.8,source=/uv,target=/bin/uv \
    uv venv --python "$(command -v python3)" /venv \
    && uv pip install --python /venv --no-cache --no-deps --index-url "$TORCH_INDEX" torch -c constraints.txt \
    && export CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" \
    && CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DCMAKE_UNITY_BUILD=ON -DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=/cmake/llama_cpp_lean.cmake" \
    uv pip install --python /venv --no-cache --no-binary llama-cpp-python \
    -r pyproject.toml --extra llama --extra speech --extra otel -c constraints.txt

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /weights && chown 1000:1000 /weights
COPY --from=build /venv /venv
WORKDIR /app
COPY pyproject.toml constraints.txt LICENSE THIRD_PARTY_NOTICES.md ./
COPY orpheus orpheus
USER 1000:1000
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app HF_HOME=/weights ORPHEUS_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 5005
ENTRYPOINT ["python", "-m", "orpheus", "serve"]
