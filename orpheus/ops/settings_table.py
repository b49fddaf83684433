"""Settings, environment and `.env` → what `orpheus settings` prints, and warnings about names that are no setting.

Knows nothing of what a setting means.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from dotenv import dotenv_values

from orpheus.deploy.settings import Deployment
from orpheus.settings import ENV_FILE, PREFIX, Settings, setting_name

# Settings of earlier versions → what to use instead.
REPLACED = {
    "AUTH_SECRET": "the Secret is always called voice-auth",
    "BATCH_TOKENS": "it is fixed at 512",
    "BUFFER_CONTAINERS": "use ORPHEUS_MIN_CONTAINERS",
    "CALL_TIMEOUT_S": "it is fixed at 3600",
    "CODEC_GATHER_MS": "it is fixed at 2",
    "CODEC_NOISE": "the codec's noise is always on",
    "CODEC_RESERVE_MS": "it is fixed at 500",
    "CODEC_THREADS": "use ORPHEUS_THREADS",
    "CONNECT_TIMEOUT_S": "it is fixed at 5",
    "CORES": "containers get 4 cores",
    "EVEN_BATCHES": "it is always on where it is needed",
    "EXIT_GRACE_S": "it is fixed at 60",
    "FLASH_ATTENTION": "it is used wherever the backend has it",
    "HF_SECRET": "HF_TOKEN as set on the deploying machine goes along",
    "JOIN": "use ORPHEUS_POSTPROCESS=true or false",
    "KV": "each stream always has a cache of its own",
    "LEAD_SILENCE_MS": "it is 30 unless a request sets lead_silence_ms",
    "LISTS_OPEN": "lists of models and voices never need a key",
    "LLAMA_HOST": "use ORPHEUS_HOST",
    "LLAMA_THREADS": "use ORPHEUS_THREADS",
    "LOOKAHEAD": "it is fixed at 4",
    "MAX_BODY_BYTES": "it is fixed at 1 MiB",
    "MAX_LIVE_CHARS": "it is fixed at 16384",
    "MEMORY_GIB": "containers get 8 GiB",
    "MIN_P": "requests to tier 1 set min_p",
    "ORCHESTRATOR_OPEN": "use ORPHEUS_UNMUTE_OPEN",
    "PAUSE_TIMEOUT_S": "it is fixed at 60",
    "PIECE_CHARS": "segments have at most 280 characters, 110 with the embedded voice",
    "RELAY_HEADERS": "use `orpheus relay --header`; ORPHEUS_API_KEY and the proxy token are sent anyway",
    "RELAY_PORT": "use `orpheus relay --port`",
    "REPETITION_FRAMES": "it is fixed at 64",
    "REPETITION_PENALTY": "it is 1.1 unless a request sets repetition_penalty",
    "SILENCE_DB": "it is fixed at -45",
    "SLOT_TOKENS": "use ORPHEUS_CONTEXT_TOKENS",
    "SOCKET_FIRST_TEXT_S": "it is fixed at 60",
    "SOCKET_IDLE_S": "it is fixed at 300",
    "SOCKET_LEAD_S": "it is 3 unless a session sets lead_s",
    "SOCKET_STALL_S": "it is fixed at 20",
    "STALL_TIMEOUT_S": "it is fixed at 30",
    "STARTUP_TIMEOUT_S": "it is fixed at 600",
    "STREAM_FRAMES": "it is fixed at 64",
    "TARGET_LOAD": "it is fixed at 0.75",
    "TOP_K": "requests to tier 1 set top_k",
    "TYPE_K": "use ORPHEUS_KV_TYPE",
    "TYPE_V": "use ORPHEUS_KV_TYPE",
    "VOLUME": "the Volume is always called orpheus-weights",
    "WAITING": "a quarter of ORPHEUS_STREAMS may wait",
}


@dataclass(frozen=True)
class SettingRow:
    """One setting as `orpheus settings` prints it."""

    name: str
    value: str
    source: str  # "environment" | ".env" | "default"
    description: str


def unknown_names() -> Iterator[str]:
    """A sentence for each ORPHEUS_ name in the environment or `.env` that is not a setting."""
    known = {setting_name(field) for kind in (Settings, Deployment) for field in kind.model_fields}
    for name in sorted({*os.environ, *_dotenv()}):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known:
            continue
        if instead := REPLACED.get(upper.removeprefix(PREFIX)):
            yield f"{name} is no longer a setting and is ignored: {instead}."
        else:
            near = difflib.get_close_matches(upper, known, n=1, cutoff=0.0)
            yield f"{name} is not a setting and is ignored; did you mean {near[0]}?"


def setting_rows(settings: Settings | Deployment) -> Iterator[SettingRow]:
    """All settings with their values and where each came from. Secrets are masked."""
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    dotenv = {name.upper(): value for name, value in _dotenv().items() if value}
    for field, info in type(settings).model_fields.items():
        name = setting_name(field)
        source = "environment" if name in environment else ".env" if name in dotenv else "default"
        value = getattr(settings, field)
        yield SettingRow(name, "" if value is None else str(value), source, info.description or "")


def _dotenv() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}
