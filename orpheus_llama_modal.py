"""Tier 1 on Modal: `modal deploy orpheus_llama_modal.py`, or `python deploy_orpheus_modal.py` for both tiers.

    modal run orpheus_llama_modal.py                   ask the deployed tier for one frame, cold and warm
    modal run orpheus_llama_modal.py::fetch_weights    put the model into the Volume; the deploy script does this too
    modal app logs orpheus-llama-cpp                   its log

A Modal Server, not a web function: requests go straight to the port, which adds no delay to tokens. It answers 503
while no container runs, and 429 beyond what one container takes. `orpheus settings` lists the settings;
orpheus/deploy/llama.py is what runs in a container.
"""

from __future__ import annotations

import modal

from orpheus.deploy import images, objects
from orpheus.deploy.settings import (
    LLAMA_APP,
    MEMORY_GIB,
    STARTUP_TIMEOUT_S,
    WEIGHTS,
    container_environment,
    llama_sizes,
    load_deployment,
)
from orpheus.settings import ALL_LAYERS, load_settings

deployment = load_deployment()
sizes = llama_sizes()
environment: dict[str, str | None] = {**container_environment(deployment)}
volume = objects.weights_volume()

app = modal.App(
    LLAMA_APP, image=images.llama_image(deployment.gpu_llama), tags={"service": "orpheus", "tier": "llama"}
)


@app.function(**objects.fetch_options(volume, environment))
def fetch_weights() -> str:
    from orpheus.deploy import weights

    fetched = weights.fetch_model(load_settings())
    volume.commit()
    return fetched


@app.server(
    gpu=deployment.gpu_llama,
    memory=MEMORY_GIB * 1024,
    port=load_settings().llama_port,
    volumes={WEIGHTS: volume.with_mount_options(read_only=True)},
    # Without its GPU it must fail here, not limp along on the CPU.
    env={"ORPHEUS_GPU_LAYERS": str(ALL_LAYERS)} | environment | {"HF_HUB_OFFLINE": "1"},
    **objects.server_options(deployment, sizes),
    # No memory snapshot: for a process that holds a GPU it would need Modal's GPU snapshots, which are alpha and crash
    # on some restores (modal-client issue 4132); loading 4 GB from a Volume takes seconds.
)
class Llama:
    @modal.enter()
    def start(self) -> None:
        from orpheus.deploy.llama import LlamaProcess

        self.process = LlamaProcess()
        self.process.start(STARTUP_TIMEOUT_S - 10)

    @modal.exit()
    def stop(self) -> None:
        self.process.stop()


@app.local_entrypoint()
def main() -> None:
    from orpheus.deploy import smoke

    smoke.try_llama(Llama.get_url())  # type: ignore[attr-defined]  # the decorator makes it a modal.Server
