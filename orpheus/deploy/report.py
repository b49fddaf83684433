"""What the deploy command prints: a plan with its price before, the URLs and how to try them after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orpheus.deploy.modal_api import LLAMA, SPEECH, Tier
from orpheus.deploy.prices import PRICED, hourly_usd
from orpheus.deploy.settings import (
    AUTH_SECRET,
    CORES,
    MEMORY_GIB,
    VOLUME,
    Deployment,
    container_environment,
    llama_sizes,
    speech_sizes,
)
from orpheus.redaction import redacted
from orpheus.settings import load_settings

PROXY = ' -H "Modal-Key: $ORPHEUS_PROXY_KEY" -H "Modal-Secret: $ORPHEUS_PROXY_SECRET"'
KEY = ' -H "x-api-key: $ORPHEUS_API_KEY"'


def plan(deployment: Deployment, tiers: Sequence[Tier], environment: str | None, strategy: str) -> str:
    """What a deploy with these settings would do and cost."""
    least, most, idle_s = deployment.min_containers, deployment.max_containers, deployment.scaledown_s
    lines = []
    prices = {}
    for tier in tiers:
        gpu, sizes, is_open = (
            (deployment.gpu_llama, llama_sizes(), False)
            if tier is LLAMA
            else (deployment.gpu_speech, speech_sizes(), deployment.open_speech)
        )
        prices[tier.app] = hourly_usd(gpu, CORES, MEMORY_GIB, deployment.region)
        lines.append(
            f"  {tier.app:<20} {gpu}, {CORES} cores, {MEMORY_GIB} GiB; {least} to {most} containers, another from "
            f"{sizes.target} requests in one, at most {sizes.most}; gone after {idle_s / 60:g} idle minutes; "
            + ("open to everybody: set ORPHEUS_API_KEYS" if is_open else "behind a proxy token")
        )
    hour = sum(prices.values())
    return "\n".join(
        [
            f"Environment {environment or 'of the profile'}, strategy {strategy}, "
            f"region: {deployment.region or 'wherever a GPU is free'}.",
            *lines,
            f"  Volume {VOLUME}, Secret {AUTH_SECRET}" + (", HF_TOKEN" if load_settings().hf_token else ""),
            "Settings of the containers:",
            *(
                f"  {name}={redacted(value)}"
                for name, value in sorted(container_environment(deployment).items())
            ),
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
    return "\n".join(
        [
            *found,
            "",
            "Try it, with ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET set, and ORPHEUS_API_KEY if there are keys:",
            *(f"  {name:<10} {command}" for name, command in commands.items()),
        ]
    )
