"""Environment and `.env` → what is deployed to Modal: GPUs, scaling, names; and the settings its containers get.

Read when deploying, and again in each container, where the same values must give the same definition. Knows
nothing of Modal itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from orpheus.deploy.prices import GPUS
from orpheus.errors import SetupError
from orpheus.llama.engine_config import EngineConfig
from orpheus.settings import (
    EMBEDDED,
    REAL_CODEC,
    REAL_MODEL,
    Environment,
    load,
    load_settings,
    setting_name,
)

LLAMA_APP, LLAMA_SERVER = "orpheus-llama-cpp", "Llama"
SPEECH_APP, SPEECH_CLASS = "orpheus-fastapi-tts", "Speech"
WEIGHTS = "/weights"  # where the Volume is mounted

# The commit of hubertsiuzdak/snac_24khz every Orpheus uses. The model's is the one met at the first fetch, which
# the Volume keeps; ORPHEUS_MODEL=owner/repo@commit names another.
CODEC = f"{REAL_CODEC}@d73ad176a12188fcf4f360ba3bf2c2fbbe8f58ec"
DRAIN_S = 20  # of the 30 s between Modal's SIGTERM and its SIGKILL
# Under the 150 s after which Modal answers a waiting request with a redirect, which few clients follow.
COLD_WAIT_S = 140.0
LOCAL = {"host", "port", "fastapi_url"}  # mean this machine
THIS_MACHINE = {"127.0.0.1", "::1", "localhost", "0.0.0.0"}


class Deployment(Environment):
    """Modal: what is deployed there."""

    gpu_llama: str = Field("L40S", description="Modal: GPU of tier 1")
    gpu_speech: str = Field("L4", description="Modal: GPU of tier 2")
    cores: float = Field(4, gt=0, le=64, description="Modal: CPU cores of a container")
    memory_gib: int = Field(8, ge=2, le=336, description="Modal: memory of a container, in GiB")
    min_containers: int = Field(0, ge=0, le=100, description="Modal: containers of each tier kept running")
    max_containers: int = Field(
        3,
        ge=1,
        le=1000,
        validate_default=True,
        description="Modal: most containers of each tier; one more than needed lets a deploy roll",
    )
    buffer_containers: int = Field(
        0, ge=0, le=100, description="Modal: idle containers of each tier held ready while there is traffic"
    )
    scaledown_s: int = Field(
        1200, ge=2, le=3600, description="Modal: idle time after which a container goes, in seconds"
    )
    target_load: float = Field(
        0.75,
        gt=0,
        le=1,
        description="Modal: part of a container's capacity in use at which another is started",
    )
    startup_timeout_s: int = Field(600, ge=30, le=3600, description="Modal: longest start of a container")
    call_timeout_s: int = Field(
        3600, ge=60, le=86400, description="Modal: longest request of tier 2, so its longest WebSocket"
    )
    exit_grace_s: int = Field(
        60, ge=0, le=600, description="Modal: a tier 1 that must go has this long to end its streams"
    )
    region: str | None = Field(
        None,
        description="Modal: where both tiers run, as us, us-east or eu-west. Unset: wherever a GPU is free",
    )
    open_speech: bool = Field(
        False,
        description="Modal: tier 2 without a proxy token, for browsers and clients that cannot send one; set API keys",
    )
    memory_snapshot: bool = Field(
        False, description="Modal: start tier 2 from a snapshot of its memory with the imports done"
    )
    auth_secret: str = Field(
        "voice-auth",
        description="Modal: Secret with ORPHEUS_PROXY_KEY, ORPHEUS_PROXY_SECRET, ORPHEUS_API_KEYS",
    )
    hf_secret: str | None = Field(
        None,
        description="Modal: Secret with HF_TOKEN, for gated weights. Unset: huggingface-secret where there is one",
    )
    volume: str = Field("orpheus-weights", description="Modal: Volume the weights are kept in")

    @field_validator("gpu_llama", "gpu_speech")
    @classmethod
    def _is_known(cls, gpu: str) -> str:
        if gpu.upper() not in GPUS:
            raise ValueError(f"Modal has {', '.join(GPUS)}")
        return gpu.upper()

    @field_validator("max_containers")
    @classmethod
    def _holds_the_least(cls, most: int, info: Any) -> int:
        if most < info.data.get("min_containers", 0):
            raise ValueError("it is less than ORPHEUS_MIN_CONTAINERS")
        return most


def load_deployment(**options: Any) -> Deployment:
    """As `load_settings`, for what is deployed."""
    return load(Deployment, options)


@dataclass(frozen=True)
class Sizes:
    """Requests one container has at a time."""

    target: int  # where Modal starts another container
    most: int  # where Modal sends no more: 429 from a server, the queue of a web function


ASIDE = 8  # requests that take no place: health, lists, and those that are told that all places are taken


def llama_sizes(deployment: Deployment) -> Sizes:
    """Of tier 1: its streams, and those that may wait for one."""
    sizes = EngineConfig.from_settings(load_settings(), gpu=True)
    return Sizes(max(1, int(deployment.target_load * sizes.streams)), sizes.streams + sizes.waiting + ASIDE)


def speech_sizes(deployment: Deployment) -> Sizes:
    """Of tier 2: its places."""
    places = load_settings().max_requests
    return Sizes(max(1, int(deployment.target_load * places)), places + ASIDE)


def routing_region(region: str | None) -> str:
    """Modal's proxy nearest to where tier 1 runs; a server cannot change it after its first deploy."""
    near = {"us-west": "us-west", "eu": "eu-west", "uk": "eu-west", "ap": "ap-south", "jp": "ap-south"}
    return next((proxy for start, proxy in near.items() if (region or "").startswith(start)), "us-east")


def container_environment(deployment: Deployment) -> dict[str, str]:
    """Environment of both tiers' containers: what was set here and has a meaning there, no secrets.

    The deployment's own settings are among it, as its definition is read again in the container. SetupError where
    the weights are a path of this machine.
    """
    environment = {
        "ORPHEUS_MODEL": REAL_MODEL,
        "ORPHEUS_LOG_FORMAT": "json",
        "ORPHEUS_DRAIN_S": str(DRAIN_S),
        "ORPHEUS_COLD_WAIT_S": str(COLD_WAIT_S),
        "HF_HUB_CACHE": WEIGHTS,
        "PYTHONUNBUFFERED": "1",
    }
    for source in (load_settings(), deployment):
        for field in sorted(source.model_fields_set - LOCAL):
            value = getattr(source, field)
            if value is not None and not isinstance(value, SecretStr):
                environment[setting_name(field)] = str(value)
    if urlsplit(environment.get("ORPHEUS_LLAMA_ENDPOINT", "")).hostname in THIS_MACHINE:
        del environment["ORPHEUS_LLAMA_ENDPOINT"]
    embedded = environment["ORPHEUS_MODEL"] == EMBEDDED
    environment.setdefault("ORPHEUS_CODEC", EMBEDDED if embedded else CODEC)
    for name in ("ORPHEUS_MODEL", "ORPHEUS_CODEC"):
        if environment[name].startswith(("/", ".", "~")):
            raise SetupError(
                f"{name}={environment[name]} is a path of this machine: for a container name a repository of Hugging "
                f"Face, as {REAL_MODEL}, or '{EMBEDDED}'."
            )
    return environment
