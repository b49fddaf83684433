"""A deployment → the text a person reads: what would be deployed and its price; where it is and how to try it.

Knows nothing of Modal's API. Prices are per hour and say when they were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orpheus.deploy.prices import PRICED, hourly_usd
from orpheus.deploy.release import LLAMA, SPEECH, Tier
from orpheus.deploy.settings import (
    Deployment,
    Sizes,
    container_environment,
    llama_sizes,
    speech_sizes,
)


def plan(deployment: Deployment, tiers: Sequence[Tier], environment: str | None, strategy: str) -> str:
    """What a deploy with these settings does, and what it costs."""
    place = deployment.region or "wherever a GPU is free"
    lines = [f"Environment {environment or 'of the profile'}, strategy {strategy}, region: {place}."]
    prices = []
    for tier in tiers:
        gpu, sizes = _of(tier, deployment)
        price = hourly_usd(gpu, deployment.cores, deployment.memory_gib, deployment.region)
        prices.append(price)
        lines.append(
            f"  {tier.app:<20} {gpu}, {deployment.cores:g} cores, {deployment.memory_gib} GiB; "
            f"{deployment.min_containers} to {deployment.max_containers} containers, another from {sizes.target} "
            f"requests in one, at most {sizes.most}; gone after {deployment.scaledown_s / 60:g} idle minutes; "
            f"{_door(tier, deployment)}"
        )
    hour = sum(prices)
    lines += [
        f"  Volume {deployment.volume}, Secrets {deployment.auth_secret}"
        + (f", {deployment.hf_secret}" if deployment.hf_secret else ""),
        "Settings of the containers:",
        *(f"  {name}={value}" for name, value in sorted(container_environment(deployment).items())),
        f"Price by modal.com/pricing as read {PRICED}, US dollars an hour:",
        *(f"  one {tier.app}: {price:.2f}" for tier, price in zip(tiers, prices, strict=True)),
        f"  idle: {deployment.min_containers * hour:.2f} ({deployment.min_containers} containers of each)",
        f"  busy: {deployment.max_containers * hour:.2f} ({deployment.max_containers} containers of each)",
        f"  each waking for a single request: {hour * deployment.scaledown_s / 3600:.2f}, the idle time after it",
    ]
    return "\n".join(lines)


def where(deployment: Deployment, urls: Mapping[str, str]) -> str:
    """The URLs as lines for .env, and commands that try them."""
    lines = []
    if llama := urls.get(LLAMA.name):
        lines.append(f"ORPHEUS_LLAMA_ENDPOINT={llama}")
    if speech := urls.get(SPEECH.name):
        lines.append(f"ORPHEUS_FASTAPI_URL={speech}")
    commands = []
    proxy = '-H "Modal-Key: $ORPHEUS_PROXY_KEY" -H "Modal-Secret: $ORPHEUS_PROXY_SECRET"'
    key = ' -H "x-api-key: $ORPHEUS_API_KEY"'
    if llama:
        commands.append(("tier 1", f"curl {llama}/health {proxy}"))
    if speech:
        door = ("" if deployment.open_speech else f" {proxy}") + key
        post = f"curl {speech}/v1/audio/speech{door} -H 'Content-Type: application/json'"
        stream = '{"input": "Hello.", "voice": "tara", "stream_format": "sse"}'
        commands += [
            ("health", f"curl {speech}/ready{door}"),
            ("speech", f"""{post} -d '{{"input": "Hello.", "voice": "tara"}}' -o hello.mp3"""),
            ("streaming", f"{post} -N -d '{stream}'"),
            ("WebSocket", f"python clients/websocket_stream.py Hello. --url {speech}"),
        ]
    lines += [
        "",
        "Try it (with ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET set, and ORPHEUS_API_KEY where keys are):",
    ]
    lines += [f"  {name:<10} {command}" for name, command in commands]
    return "\n".join(lines)


def _of(tier: Tier, deployment: Deployment) -> tuple[str, Sizes]:
    if tier is LLAMA:
        return deployment.gpu_llama, llama_sizes(deployment)
    return deployment.gpu_speech, speech_sizes(deployment)


def _door(tier: Tier, deployment: Deployment) -> str:
    open_to_all = tier is SPEECH and deployment.open_speech
    return "open to everybody: set ORPHEUS_API_KEYS" if open_to_all else "behind a proxy token"
