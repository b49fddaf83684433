"""Tier 2 on Modal: `modal deploy orpheus_fastapi_modal.py`, or `python deploy_orpheus_modal.py` for both tiers.

    modal run orpheus_fastapi_modal.py                   speaks into hello.wav, cold and warm
    modal run orpheus_fastapi_modal.py::fetch_weights    the codec into the Volume, which a deploy by the script does
    modal app logs orpheus-fastapi-tts                   its log, one JSON object a request

What is set, and where, is told by `orpheus settings`; what a container does stands in orpheus/deploy/speech.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import modal

from orpheus.deploy import images
from orpheus.deploy.settings import (
    SPEECH_APP,
    WEIGHTS,
    container_environment,
    load_deployment,
    speech_sizes,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

deployment = load_deployment()
sizes = speech_sizes(deployment)
environment: dict[str, str | None] = {**container_environment(deployment)}
image = images.speech_image()
volume = modal.Volume.from_name(deployment.volume, create_if_missing=True, version=2)
hf_secrets = [modal.Secret.from_name(deployment.hf_secret)] if deployment.hf_secret else []
auth = modal.Secret.from_name(
    deployment.auth_secret, required_keys=["ORPHEUS_PROXY_KEY", "ORPHEUS_PROXY_SECRET"]
)

app = modal.App(SPEECH_APP, tags={"service": "orpheus", "tier": "speech"})


@app.function(
    image=image, volumes={WEIGHTS: volume}, secrets=hf_secrets, env=environment, timeout=3600, retries=2
)
def fetch_weights() -> str:
    from orpheus.deploy import weights
    from orpheus.settings import load_settings

    said = weights.fetch_codec(load_settings())
    volume.commit()
    return said


@app.cls(
    image=image,
    gpu=deployment.gpu_speech,
    cpu=deployment.cores,
    memory=deployment.memory_gib * 1024,
    volumes={WEIGHTS: volume.with_mount_options(read_only=True)},
    secrets=[auth],
    # A codec that finds no GPU must fail here, not limp along on the CPU.
    env={"ORPHEUS_CODEC_DEVICE": "cuda"} | environment | {"HF_HUB_OFFLINE": "1"},
    timeout=deployment.call_timeout_s,
    startup_timeout=deployment.startup_timeout_s,
    min_containers=deployment.min_containers,
    max_containers=deployment.max_containers,
    buffer_containers=deployment.buffer_containers,
    scaledown_window=deployment.scaledown_s,
    region=deployment.region,
    enable_memory_snapshot=deployment.memory_snapshot,
    # No GPU snapshot beside it: alpha, and restores were seen to crash (modal-client issue 4132).
)
@modal.concurrent(max_inputs=sizes.most, target_inputs=sizes.target)
class Speech:
    @modal.enter(snap=deployment.memory_snapshot)  # Modal takes no snap=True without a snapshot
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
