"""Tier 1 on Modal: `modal deploy orpheus_llama_modal.py`, or `python deploy_orpheus_modal.py` for both tiers.

    modal run orpheus_llama_modal.py                   is it up, and one frame
    modal run orpheus_llama_modal.py::fetch_weights    the model into the Volume, which a deploy by the script does
    modal app logs orpheus-llama-cpp                   its log

A Modal Server, not a web function: requests go straight to the port, so that tokens are not held up; with no
container there they get 503, and past what one container takes, 429. What is set, and where, is told by
`orpheus settings`; what a container does stands in orpheus/deploy/llama.py.
"""

from __future__ import annotations

import modal

from orpheus.deploy import images
from orpheus.deploy.settings import (
    LLAMA_APP,
    WEIGHTS,
    container_environment,
    llama_sizes,
    load_deployment,
    routing_region,
)
from orpheus.settings import load_settings

deployment = load_deployment()
sizes = llama_sizes(deployment)
environment: dict[str, str | None] = {**container_environment(deployment)}
image = images.llama_image(deployment.gpu_llama)
volume = modal.Volume.from_name(deployment.volume, create_if_missing=True, version=2)
hf_secrets = [modal.Secret.from_name(deployment.hf_secret)] if deployment.hf_secret else []

app = modal.App(LLAMA_APP, tags={"service": "orpheus", "tier": "llama"})


@app.function(
    image=image, volumes={WEIGHTS: volume}, secrets=hf_secrets, env=environment, timeout=3600, retries=2
)
def fetch_weights() -> str:
    from orpheus.deploy import weights

    said = weights.fetch_model(load_settings())
    volume.commit()
    return said


@app.server(
    image=image,
    gpu=deployment.gpu_llama,
    cpu=deployment.cores,
    memory=deployment.memory_gib * 1024,
    port=load_settings().llama_port,
    volumes={WEIGHTS: volume.with_mount_options(read_only=True)},
    env=environment | {"HF_HUB_OFFLINE": "1"},
    target_concurrency=sizes.target,
    max_concurrency=sizes.most,
    min_containers=deployment.min_containers,
    max_containers=deployment.max_containers,
    buffer_containers=deployment.buffer_containers,
    scaledown_window=deployment.scaledown_s,
    startup_timeout=deployment.startup_timeout_s,
    exit_grace_period=deployment.exit_grace_s,
    compute_region=deployment.region,
    routing_region=routing_region(deployment.region),
    # No memory snapshot: of a process that holds a GPU it needs Modal's GPU snapshots, which are alpha and crash on
    # some restores (modal-client issue 4132); loading 4 GB from a Volume takes seconds.
)
class Llama:
    @modal.enter()
    def start(self) -> None:
        from orpheus.deploy.llama import LlamaProcess

        self.process = LlamaProcess()
        self.process.start(deployment.startup_timeout_s - 10)

    @modal.exit()
    def stop(self) -> None:
        self.process.stop()


@app.local_entrypoint()
def main() -> None:
    from orpheus.deploy import smoke

    smoke.try_llama(Llama.get_url())  # type: ignore[attr-defined]  # the decorator makes it a modal.Server
