"""The agent on Modal: `python deploy_orpheus_modal.py --agent`, or `modal deploy -m orpheus.deploy.speech_to_speech`.

    modal run -m orpheus.deploy.speech_to_speech --audio question.wav    answer a recording in output.wav
    modal run -m orpheus.deploy.speech_to_speech::fetch_weights          put its weights into the Volume
    modal app logs speech-to-speech                                      its log

Deployed, a program with a Modal token has its recordings answered:

    answer = modal.Function.from_name("speech-to-speech", "speech_to_speech")
    wav: bytes = answer.remote(recording, seed=1)

orpheus/deploy/agent.py is what runs in a container.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal

from orpheus.deploy import images, objects
from orpheus.deploy.settings import (
    AGENT_APP,
    AGENT_CORES,
    API_KEYS,
    CALL_TIMEOUT_S,
    MEMORY_GIB,
    PROXY_KEYS,
    SINGLE_CORES,
    SINGLE_GPU,
    SINGLE_MEMORY_GIB,
    STARTUP_TIMEOUT_S,
    WEIGHTS,
    agent_environment,
    agent_sizes,
    load_deployment,
)
from orpheus.settings import ALL_LAYERS

if TYPE_CHECKING:
    from fastapi import FastAPI

    from orpheus.deploy.agent import Answer

deployment = load_deployment()
sizes = agent_sizes()
environment: dict[str, str | None] = {**agent_environment(deployment)}
single = deployment.single
volume = objects.weights_volume()

app = modal.App(
    AGENT_APP,
    image=images.single_image(SINGLE_GPU) if single else images.agent_image(),
    tags={"service": "orpheus", "tier": "agent"},
    include_source=False,  # the image has it
)


@app.function(**objects.fetch_options(volume, environment))
def fetch_weights() -> str:
    from orpheus.deploy import weights
    from orpheus.settings import load_settings

    settings = load_settings()
    fetched = [weights.fetch_codec(settings)]
    if single:
        fetched.append(weights.fetch_model(settings))
        if not settings.llm_url:
            fetched.append(weights.fetch_llm(settings))
    volume.commit()
    return "\n".join(fetched)


@app.cls(
    gpu=SINGLE_GPU if single else deployment.gpu_speech,
    cpu=SINGLE_CORES if single else AGENT_CORES,
    memory=(SINGLE_MEMORY_GIB if single else MEMORY_GIB) * 1024,
    # vLLM keeps in the Volume what it compiles.
    volumes={WEIGHTS: volume if single else volume.with_mount_options(read_only=True)},
    # Anybody can reach the agent: it must not start without keys that say who may use it.
    secrets=[objects.auth_secret(API_KEYS, *([] if single else PROXY_KEYS))],
    # Without its GPU it must fail here, not limp along on the CPU.
    env={"ORPHEUS_CODEC_DEVICE": "cuda", "ORPHEUS_GPU_LAYERS": str(ALL_LAYERS)}
    | environment
    | {"HF_HUB_OFFLINE": "1"},
    timeout=CALL_TIMEOUT_S,
    startup_timeout=STARTUP_TIMEOUT_S,
    min_containers=deployment.min_containers,
    max_containers=deployment.max_containers,
    scaledown_window=deployment.scaledown_s,
    region=deployment.region,
)
@modal.concurrent(max_inputs=sizes.most, target_inputs=sizes.target)
class Agent:
    @modal.enter()
    def start(self) -> None:
        from orpheus.deploy.agent import AgentContainer

        self.container = AgentContainer(deployment)
        self.application = self.container.start(STARTUP_TIMEOUT_S - 30)

    @modal.asgi_app()  # no proxy token: browsers and telephones cannot send one
    def web(self) -> FastAPI:
        return self.application

    @modal.method()
    async def answer(self, recording: bytes, fields: dict[str, Any]) -> Answer:
        return await self.container.answer(recording, fields)

    @modal.exit()
    def stop(self) -> None:
        self.container.stop()


@app.function(
    image=images.caller_image(),
    env=environment,
    timeout=CALL_TIMEOUT_S,
    max_containers=deployment.max_containers,
    scaledown_window=deployment.scaledown_s,
    region=deployment.region,
)
@modal.concurrent(max_inputs=sizes.most)
async def speech_to_speech(recording: bytes, **fields: Any) -> bytes:
    """A recording (WAV, MP3, Ogg, WebM, M4A or FLAC) answered with speech, as a WAV file. All in memory.

    `fields` are those of `POST /v1/audio/speech-to-speech`, such as voice, language and instructions; with a seed the
    same recording gets the same answer.
    """
    answer: Answer = await Agent().answer.remote.aio(recording, fields)
    return answer.wav


@app.local_entrypoint()
def main(audio: str, out: str = "output.wav", voice: str = "tara", seed: int = -1) -> None:
    """Answer the recording `audio` in the file `out`; with a seed the same way each time."""
    fields: dict[str, Any] = {"voice": voice} | ({"seed": seed} if seed >= 0 else {})
    answer: Answer = Agent().answer.remote(Path(audio).read_bytes(), fields)
    print("\n".join(answer.stages))
    Path(out).write_bytes(answer.wav)
    print(out)
