"""Tier 2 on Modal: `modal deploy orpheus_fastapi_modal.py`, or `python deploy_orpheus_modal.py` for both tiers.

    modal run orpheus_fastapi_modal.py                   speak into hello.wav, cold and warm
    modal run orpheus_fastapi_modal.py::fetch_weights    put the codec into the Volume; the deploy script does this too
    modal app logs orpheus-fastapi-tts                   its log, one JSON object per request

`orpheus settings` lists the settings; orpheus/deploy/speech.py is what runs in a container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import modal

from orpheus.deploy import images, objects
from orpheus.deploy.settings import (
    CALL_TIMEOUT_S,
    CORES,
    MEMORY_GIB,
    PROXY_KEYS,
    SPEECH_APP,
    STARTUP_TIMEOUT_S,
    WEIGHTS,
    container_environment,
    load_deployment,
    speech_sizes,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

deployment = load_deployment()
sizes = speech_sizes()
environment: dict[str, str | None] = {**container_environment(deployment)}
volume = objects.weights_volume()

app = modal.App(SPEECH_APP, image=images.speech_image(), tags={"service": "orpheus", "tier": "speech"})


@app.function(**objects.fetch_options(volume, environment))
def fetch_weights() -> str:
    from orpheus.deploy import weights
    from orpheus.settings import load_settings

    fetched = weights.fetch_codec(load_settings())
    volume.commit()
    return fetched


@app.cls(
    gpu=deployment.gpu_speech,
    cpu=CORES,
    memory=MEMORY_GIB * 1024,
    volumes={WEIGHTS: volume.with_mount_options(read_only=True)},
    secrets=[objects.auth_secret(*PROXY_KEYS)],
    # A codec that finds no GPU must fail here, not limp along on the CPU.
    env={"ORPHEUS_CODEC_DEVICE": "cuda"} | environment | {"HF_HUB_OFFLINE": "1"},
    timeout=CALL_TIMEOUT_S,
    startup_timeout=STARTUP_TIMEOUT_S,
    min_containers=deployment.min_containers,
    max_containers=deployment.max_containers,
    scaledown_window=deployment.scaledown_s,
    region=deployment.region,
    enable_memory_snapshot=deployment.memory_snapshot,
    # No GPU snapshot with it: alpha, and restores have crashed (modal-client issue 4132).
)
@modal.concurrent(max_inputs=sizes.most, target_inputs=sizes.target)
class Speech:
    @modal.enter(snap=deployment.memory_snapshot)  # Modal accepts snap=True only with a snapshot
    def load_modules(self) -> None:
        from orpheus.deploy import speech

        speech.load_modules()

    @modal.enter(snap=False)
    def start(self) -> None:
        from orpheus.deploy import speech

        self.application = speech.start()

    @modal.asgi_app(requires_proxy_auth=not deployment.open_speech)
    def web(self) -> FastAPI:
        return self.application


@app.local_entrypoint()
def main(text: str = "Hello, I am Orpheus, and I speak from far away.", out: str = "hello.wav") -> None:
    from orpheus.deploy import smoke

    smoke.try_speech(Speech().web.get_web_url(), text, out)
