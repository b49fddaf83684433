"""The agent's LLM on Modal: `modal deploy -m orpheus.deploy.llm_app`, or `python deploy_orpheus_modal.py --agent`.

    modal run -m orpheus.deploy.llm_app::fetch_weights    put the model into the Volume; the deploy script does this too
    modal app logs orpheus-llm                            its log

A Modal Server, as tier 1 is. ORPHEUS_LLM_MODEL names the model; orpheus/deploy/vllm.py is what runs in a container.
"""

from __future__ import annotations

import modal

from orpheus.deploy import images, objects
from orpheus.deploy.settings import (
    LLM_APP,
    LLM_MEMORY_GIB,
    STARTUP_TIMEOUT_S,
    WEIGHTS,
    agent_environment,
    llm_port,
    llm_sizes,
    load_deployment,
)

FETCH = "modal run -m orpheus.deploy.llm_app::fetch_weights"

deployment = load_deployment()
sizes = llm_sizes()
environment: dict[str, str | None] = {**agent_environment(deployment)}
volume = objects.weights_volume()

app = modal.App(
    LLM_APP,
    image=images.llm_image(),
    tags={"service": "orpheus", "tier": "llm"},
    include_source=False,  # the image has it
)


@app.function(**objects.fetch_options(volume, environment))
def fetch_weights() -> str:
    from orpheus.deploy import weights
    from orpheus.settings import load_settings

    fetched = weights.fetch_llm(load_settings())
    volume.commit()
    return fetched


@app.server(
    gpu=deployment.gpu_llm,
    memory=LLM_MEMORY_GIB * 1024,
    port=llm_port(),
    volumes={WEIGHTS: volume},  # writable: vLLM keeps in it what it compiles
    env=environment | {"HF_HUB_OFFLINE": "1"},
    **objects.server_options(deployment, sizes),
)
class Llm:
    @modal.enter()
    def start(self) -> None:
        from orpheus.deploy.vllm import VllmProcess

        self.process = VllmProcess(FETCH)
        self.process.start(STARTUP_TIMEOUT_S - 10)

    @modal.exit()
    def stop(self) -> None:
        self.process.stop()
