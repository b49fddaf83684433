"""What is deployed to Modal, from the environment and `.env`: GPUs, scaling, and the settings its containers get.

Read on the deploying machine and again in each container, where it must give the same definition.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from orpheus.deploy.prices import GPUS
from orpheus.errors import SetupError
from orpheus.hub import parse
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
from orpheus.voices_file import in_one_line
from orpheus.weights import repository_of

LLAMA_APP, LLAMA_SERVER = "orpheus-llama-cpp", "Llama"
SPEECH_APP, SPEECH_CLASS = "orpheus-fastapi-tts", "Speech"
LLM_APP, LLM_SERVER = "orpheus-llm", "Llm"
AGENT_APP, AGENT_CLASS = "speech-to-speech", "Agent"
VOLUME = "orpheus-weights"
WEIGHTS = "/weights"  # where the Volume is mounted
AUTH_SECRET = "voice-auth"  # must hold PROXY_KEYS, and for the agent API_KEYS; may hold OTEL_…_HEADERS
PROXY_KEYS = ["ORPHEUS_PROXY_KEY", "ORPHEUS_PROXY_SECRET"]
API_KEYS = "ORPHEUS_API_KEYS"
HF_SECRET = "huggingface-secret"  # must hold HF_TOKEN
HF_SECRET_EXISTS = "HF_SECRET_EXISTS"  # set by the deploy script, for the definitions to read

CORES = 4  # the GPU does the work: one core feeds it, the others serve HTTP and encode audio
MEMORY_GIB = 8  # the 4 GB model passes through it on its way to the GPU
AGENT_CORES = (
    8  # Whisper and voice activity run on them: 0.4 of a core while somebody speaks (2026-11-30, AMD EPYC)
)
AGENT_CONVERSATIONS = 16  # in one container, unless ORPHEUS_MAX_CONVERSATIONS says otherwise
LLM_MEMORY_GIB = 16
SINGLE_GPU = "L40S"  # for all of it: 24 GB for the LLM, 12 for tier 1, 2 for the codec
SINGLE_CORES, SINGLE_MEMORY_GIB = AGENT_CORES + CORES, 32
AGENT_REGION = "us-east"  # unless ORPHEUS_REGION says otherwise: a turn goes back and forth between the apps
TARGET_LOAD = 0.75  # of a container's capacity: the rest bridges the time another one takes to start
STARTUP_TIMEOUT_S = 600  # ample for reading 4 GB from a cold Volume; Modal's default is 30 s
CALL_TIMEOUT_S = 3600  # to Modal a WebSocket is one call
EXIT_GRACE_S = 60  # a stream has 25 s of speech at most, made in real time or faster
DRAIN_S = 20  # of the 30 s between Modal's SIGTERM and its SIGKILL
# Under the 150 s after which Modal answers a waiting request with a redirect, which few clients follow.
COLD_WAIT_S = 140.0
# Requests beyond a container's capacity that must get in: health checks, lists, and those answered with 429.
ASIDE = 8

# The commit of hubertsiuzdak/snac_24khz every Orpheus uses. The model is not pinned: the Volume keeps the commit it
# was first fetched at, and ORPHEUS_MODEL=owner/repo@commit names another.
CODEC = f"{REAL_CODEC}@d73ad176a12188fcf4f360ba3bf2c2fbbe8f58ec"
LLM_MODEL = "Qwen/Qwen3-8B"  # Apache-2.0 and not gated; it has our languages and calls tools
LLM_CONTEXT_TOKENS = 16_384  # of one conversation
LLM_STREAMS = 32  # answered at once
LOCAL = {"host", "port", "fastapi_url", "wyoming"}  # settings that concern the deploying machine alone
THIS_MACHINE = {"127.0.0.1", "::1", "localhost", "0.0.0.0"}


class Deployment(Environment):
    """Modal: what is deployed there."""

    gpu_llama: str = Field("L40S", description="Modal: GPU of tier 1")
    gpu_speech: str = Field("L4", description="Modal: GPU of tier 2, and of the agent")
    gpu_llm: str = Field("L40S", description="Modal: GPU of the agent's LLM")
    single: bool = Field(
        False, description=f"Modal: the agent, its LLM and tier 1 share one container with an {SINGLE_GPU}"
    )
    min_containers: int = Field(0, ge=0, le=100, description="Modal: containers of each app kept running")
    max_containers: int = Field(
        3,
        ge=1,
        le=1000,
        validate_default=True,
        description="Modal: most containers of each app; a rolling deploy needs one to spare",
    )
    scaledown_s: int = Field(
        1200, ge=2, le=3600, description="Modal: idle time after which a container stops, in seconds"
    )
    region: str | None = Field(
        None,
        description="Modal: where all apps run, such as us, us-east or eu-west. Unset: wherever a GPU is free; with "
        f"--agent {AGENT_REGION}",
    )
    open_speech: bool = Field(
        False,
        description="Modal: tier 2 needs no proxy token, for browsers and clients that cannot send one; set API keys",
    )
    memory_snapshot: bool = Field(
        False, description="Modal: start tier 2 from a memory snapshot taken after its imports"
    )

    @field_validator("gpu_llama", "gpu_speech", "gpu_llm")
    @classmethod
    def _is_known(cls, gpu: str) -> str:
        if gpu.upper() not in GPUS:
            raise ValueError(f"Modal has {', '.join(GPUS)}")
        return gpu.upper()

    @field_validator("max_containers")
    @classmethod
    def _is_no_less_than_the_minimum(cls, most: int, info: Any) -> int:
        if most < info.data.get("min_containers", 0):
            raise ValueError("it is less than ORPHEUS_MIN_CONTAINERS")
        return most


def load_deployment(**options: Any) -> Deployment:
    """Like `load_settings`, for the deployment."""
    return load(Deployment, options)


@dataclass(frozen=True)
class Sizes:
    """Concurrent requests of one container."""

    target: int  # Modal starts another container above this
    most: int  # Modal sends no more than this: a server answers 429, a web function queues


def llama_sizes() -> Sizes:
    """Tier 1: its streams, and those that may wait for one."""
    engine = EngineConfig.from_settings(load_settings(), gpu=True)
    return _sizes(engine.streams, engine.waiting)


def llm_port() -> int:
    """The LLM's, beside tier 1's: both may run in one container."""
    return load_settings().llama_port + 1


def speech_sizes() -> Sizes:
    """Tier 2: the speech requests it admits."""
    return _sizes(load_settings().max_requests)


def llm_sizes() -> Sizes:
    """The LLM: the answers that it batches."""
    return _sizes(LLM_STREAMS)


def agent_sizes() -> Sizes:
    """The agent: its conversations, each a call of an hour at most."""
    return _sizes(load_settings().max_conversations or AGENT_CONVERSATIONS)


def _sizes(capacity: int, waiting: int = 0) -> Sizes:
    return Sizes(max(1, int(TARGET_LOAD * capacity)), capacity + waiting + ASIDE)


def routing_region(region: str | None) -> str:
    """The Modal proxy nearest to where tier 1 runs. Modal fixes a server's at its first deploy."""
    near = {"us-west": "us-west", "eu": "eu-west", "uk": "eu-west", "ap": "ap-south", "jp": "ap-south"}
    return next((proxy for start, proxy in near.items() if (region or "").startswith(start)), "us-east")


def container_environment(deployment: Deployment) -> dict[str, str]:
    """Environment of all containers: every setting given here that applies there, OTEL_ variables, and no secrets.

    Raises SetupError if the weights are a path of this machine.
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
    for name in ("ORPHEUS_LLAMA_ENDPOINT", "ORPHEUS_LLM_URL", "ORPHEUS_STT_URL"):
        if urlsplit(environment.get(name, "")).hostname in THIS_MACHINE:
            del environment[name]
    # The headers of a collector hold its key, and come with the Secret.
    environment |= {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("OTEL_")
        and not name.endswith("_HEADERS")
        and urlsplit(value).hostname not in THIS_MACHINE
    }
    if HF_SECRET_EXISTS in os.environ:
        environment[HF_SECRET_EXISTS] = os.environ[HF_SECRET_EXISTS]
    embedded = environment["ORPHEUS_MODEL"] == EMBEDDED
    environment.setdefault("ORPHEUS_CODEC", EMBEDDED if embedded else CODEC)
    if "ORPHEUS_VOICES" in environment:
        environment["ORPHEUS_VOICES"] = in_one_line(environment["ORPHEUS_VOICES"])  # its file stays here
    if "ORPHEUS_LORA" in environment:
        raise SetupError(
            "ORPHEUS_LORA is a file of this machine: merge it into the model, and set ORPHEUS_MODEL to its repository."
        )
    for name in ("ORPHEUS_MODEL", "ORPHEUS_CODEC"):
        given = environment[name]
        if given.startswith(".") or (given != EMBEDDED and repository_of(given) is None):
            raise SetupError(
                f"{name}={given} is a path of this machine: containers need a Hugging Face repository "
                f"such as {REAL_MODEL}, or '{EMBEDDED}'."
            )
    return environment


def agent_environment(deployment: Deployment) -> dict[str, str]:
    """`container_environment` for the agent and its LLM, with what they take as unset here.

    Raises SetupError if the LLM is to run there and is no repository.
    """
    environment = {
        "ORPHEUS_MAX_CONVERSATIONS": str(AGENT_CONVERSATIONS),
        "ORPHEUS_THREADS": str(AGENT_CORES),  # a container sees all cores of its machine
        **container_environment(deployment),
    }
    # What stands behind a proxy token in tier 2's app would be open to everybody here.
    environment.pop("ORPHEUS_UNMUTE_OPEN", None)
    if not has_llm_url(environment):
        model = environment.setdefault("ORPHEUS_LLM_MODEL", LLM_MODEL)
        if parse(model) is None:
            raise SetupError(
                f"ORPHEUS_LLM_MODEL={model} is no Hugging Face repository, which vLLM serves on Modal: unset it, or "
                f"name one such as {LLM_MODEL}; or set ORPHEUS_LLM_URL to a server elsewhere that has it."
            )
    return environment


def has_llm_url(environment: Mapping[str, str]) -> bool:
    """Whether these containers think elsewhere."""
    return "ORPHEUS_LLM_URL" in environment
