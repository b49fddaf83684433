# Tier 2. At the root of the repository: docker build -f docker/speech.Dockerfile -t orpheus-speech .
# Torch's wheel brings CUDA 13, which wants a driver of 580 or newer on the host.
FROM python:3.12-slim-bookworm
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt \
    fastapi starlette pydantic uvicorn websockets httpx huggingface_hub pydantic-settings typer rich prometheus-client \
    numpy torch snac av num2words sentencex msgpack cachetools \
    && mkdir /weights && chown 1000:1000 /weights
COPY orpheus /app/orpheus
WORKDIR /app
USER 1000:1000
ENV HF_HOME=/weights ORPHEUS_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 5005
ENTRYPOINT ["python", "-m", "orpheus", "speech"]
