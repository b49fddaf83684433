# Tier 2. At the root of the repository: docker build -f docker/speech.Dockerfile -t orpheus-speech .
# With --build-arg AGENT=1 it can be talked to as well: python -m orpheus speech --agent.
# Torch's wheel brings CUDA 13, which wants a driver of 580 or newer on the host.
FROM python:3.12-slim-bookworm
ARG AGENT=
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN --mount=from=ghcr.io/astral-sh/uv:0.13.8,source=/uv,target=/bin/uv \
    uv pip install --system --no-cache -r pyproject.toml --extra speech --extra otel ${AGENT:+--extra agent} -c constraints.txt \
    && mkdir /weights && chown 1000:1000 /weights
COPY LICENSE THIRD_PARTY_NOTICES.md ./
COPY orpheus orpheus
USER 1000:1000
ENV HF_HOME=/weights ORPHEUS_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 5005
ENTRYPOINT ["python", "-m", "orpheus", "speech"]
