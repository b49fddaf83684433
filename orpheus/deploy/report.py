"""What the deploy command prints: a plan with its price before, the URLs and how to try them after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orpheus.deploy.modal_api import AGENT, LLAMA, LLM, SPEECH, Tier
from orpheus.deploy.prices import PRICED, hourly_usd
from orpheus.deploy.settings import (
    AGENT_APP,
    AGENT_CORES,
    AUTH_SECRET,
    CORES,
    LLM_MEMORY_GIB,
    MEMORY_GIB,
    SINGLE_CORES,
    SINGLE_GPU,
    SINGLE_MEMORY_GIB,
    VOLUME,
    Deployment,
    Sizes,
    agent_environment,
    agent_sizes,
    container_environment,
    llama_sizes,
    llm_sizes,
    speech_sizes,
)
from orpheus.redaction import redacted
from orpheus.settings import load_settings

PROXY = ' -H "Modal-Key: $ORPHEUS_PROXY_KEY" -H "Modal-Secret: $ORPHEUS_PROXY_SECRET"'
KEY = ' -H "x-api-key: $ORPHEUS_API_KEY"'
TOKEN_ONLY = "behind a proxy token"


@dataclass(frozen=True)
class Container:
    """One container of an app."""

    gpu: str
    cores: int
    memory_gib: int
    sizes: Sizes
    access: str
    of: str = "requests"  # what the sizes count


def container(tier: Tier, deployment: Deployment) -> Container:
    """What the definition of an app asks for."""
    if tier is LLAMA:
        return Container(deployment.gpu_llama, CORES, MEMORY_GIB, llama_sizes(), TOKEN_ONLY)
    if tier is SPEECH:
        access = "open to everybody: set ORPHEUS_API_KEYS" if deployment.open_speech else TOKEN_ONLY
        return Container(deployment.gpu_speech, CORES, MEMORY_GIB, speech_sizes(), access)
    if tier is LLM:
        return Container(deployment.gpu_llm, CORES, LLM_MEMORY_GIB, llm_sizes(), TOKEN_ONLY)
    gpu, cores, memory_gib = deployment.gpu_speech, AGENT_CORES, MEMORY_GIB
    if deployment.single:
        gpu, cores, memory_gib = SINGLE_GPU, SINGLE_CORES, SINGLE_MEMORY_GIB
    return Container(gpu, cores, memory_gib, agent_sizes(), "for whoever has an API key", "conversations")


def plan(deployment: Deployment, tiers: Sequence[Tier], environment: str | None, strategy: str) -> str:
    """What a deploy with these settings would do and cost."""
    least, most, idle_s = deployment.min_containers, deployment.max_containers, deployment.scaledown_s
    lines = []
    prices = {}
    for tier in tiers:
        one = container(tier, deployment)
        prices[tier.app] = hourly_usd(one.gpu, one.cores, one.memory_gib, deployment.region)
        lines.append(
            f"  {tier.app:<20} {one.gpu}, {one.cores} cores, {one.memory_gib} GiB; {least} to {most} containers, "
            f"another from {one.sizes.target} {one.of} in one, at most {one.sizes.most}; gone after {idle_s / 60:g} "
            f"idle minutes; {one.access}"
        )
    hour = sum(prices.values())
    settings = agent_environment if AGENT in tiers or LLM in tiers else container_environment
    return "\n".join(
        [
            f"Environment {environment or 'of the profile'}, strategy {strategy}, "
            f"region: {deployment.region or 'wherever a GPU is free'}.",
            *lines,
            f"  Volume {VOLUME}, Secret {AUTH_SECRET}" + (", HF_TOKEN" if load_settings().hf_token else ""),
            "Settings of the containers:",
            *(f"  {name}={redacted(value)}" for name, value in sorted(settings(deployment).items())),
            f"Price by modal.com/pricing as read {PRICED}, US dollars an hour:",
            *(f"  one {app}: {price:.2f}" for app, price in prices.items()),
            f"  idle: {least * hour:.2f} ({least} containers of each)",
            f"  busy: {most * hour:.2f} ({most} containers of each)",
            f"  each waking for a single request: {hour * idle_s / 3600:.2f}, the idle time after it",
        ]
    )


def where(deployment: Deployment, urls: Mapping[str, str]) -> str:
    """The URLs as lines for `.env`, and commands that try them."""
    found, commands = [], {}
    if llama := urls.get(LLAMA.name):
        found.append(f"ORPHEUS_LLAMA_ENDPOINT={llama}")
        commands["tier 1"] = f"curl {llama}/health{PROXY}"
    if speech := urls.get(SPEECH.name):
        found.append(f"ORPHEUS_FASTAPI_URL={speech}")
        headers = ("" if deployment.open_speech else PROXY) + KEY
        post = f"curl {speech}/v1/audio/speech{headers} -H 'Content-Type: application/json'"
        body = '{"input": "Hello.", "voice": "tara"'
        commands |= {
            "health": f"curl {speech}/ready{headers}",
            "speech": f"{post} -d '{body}}}' -o hello.mp3",
            "streaming": f"""{post} -N -d '{body}, "stream_format": "sse"}}'""",
            "WebSocket": f"python clients/websocket_stream.py Hello. --url {speech}",
        }
    if llm := urls.get(LLM.name):
        commands["LLM"] = f"curl {llm}/v1/models{PROXY}"
    if agent := urls.get(AGENT.name):
        commands |= {
            "agent": f"curl {agent}/ready{KEY}",
            "a turn": f'python clients/realtime.py --text "What is the capital of France?" --url {agent}',
            "recording": f"modal run -m orpheus.deploy.speech_to_speech --audio question.wav  # or from_name({AGENT_APP!r}, …)",
            "talk": f"{agent}/ in a browser, with an API key",
        }
    return "\n".join(
        [
            *found,
            "",
            "Try it, with ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET set, and ORPHEUS_API_KEY if there are keys:",
            *(f"  {name:<10} {command}" for name, command in commands.items()),
        ]
    )
