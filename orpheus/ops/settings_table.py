"""What `orpheus settings` prints, and the warnings about ORPHEUS_ names that are not settings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from dotenv import dotenv_values

from orpheus.redaction import redacted
from orpheus.settings import ENV_FILE, PREFIX, Environment, setting_name

# Settings of earlier versions → what replaced them.
REPLACED = {
    "AUTH_SECRET": "the Secret is always called voice-auth",
    "BATCH_TOKENS": "it is always 512",
    "CACHE_MB": "use ORPHEUS_CACHE=memory:?mb=256",
    "BUFFER_CONTAINERS": "use ORPHEUS_MIN_CONTAINERS",
    "CALL_TIMEOUT_S": "it is always 3600",
    "CODEC_GATHER_MS": "it is always 2",
    "CODEC_NOISE": "the codec's noise is always on",
    "CODEC_RESERVE_MS": "it is always 500",
    "CODEC_THREADS": "use ORPHEUS_THREADS",
    "CONNECT_TIMEOUT_S": "it is always 5",
    "CORES": "containers always have 4 cores",
    "EVEN_BATCHES": "batches are even wherever results depend on it",
    "EXIT_GRACE_S": "it is always 60",
    "FLASH_ATTENTION": "it is used wherever the device has it",
    "HF_SECRET": "the Secret with HF_TOKEN is always called huggingface-secret, and used if it exists",
    "JOIN": "use ORPHEUS_POSTPROCESS=true or false",
    "KV": "each stream always has its own cache",
    "LEAD_SILENCE_MS": "it is 30 unless a request sets lead_silence_ms",
    "LISTS_OPEN": "the lists of models and voices never need a key",
    "LLAMA_HOST": "use ORPHEUS_HOST",
    "LLAMA_THREADS": "use ORPHEUS_THREADS",
    "LOOKAHEAD": "it is always 4",
    "MAX_BODY_BYTES": "it is always 1048576",
    "MAX_LIVE_CHARS": "it is always 16384",
    "MEMORY_GIB": "containers always have 8 GiB",
    "MIN_P": "requests to tier 1 can set min_p",
    "ORCHESTRATOR_OPEN": "use ORPHEUS_UNMUTE_OPEN",
    "PAUSE_TIMEOUT_S": "it is always 60",
    "PIECE_CHARS": "segments always have up to 280 characters, with the embedded voice 110",
    "RELAY_HEADERS": "use `orpheus relay --header`; ORPHEUS_API_KEY and Modal's proxy token are sent without it",
    "RELAY_PORT": "use `orpheus relay --port`",
    "REPETITION_FRAMES": "it is always 64",
    "REPETITION_PENALTY": "it is 1.1 unless a request sets repetition_penalty",
    "SILENCE_DB": "it is always -45",
    "SLOT_TOKENS": "use ORPHEUS_CONTEXT_TOKENS",
    "SOCKET_FIRST_TEXT_S": "it is always 60",
    "SOCKET_IDLE_S": "it is always 300",
    "SOCKET_LEAD_S": "it is 3 unless a session sets lead_s",
    "SOCKET_STALL_S": "it is always 20",
    "STALL_TIMEOUT_S": "it is always 30",
    "STARTUP_TIMEOUT_S": "it is always 600",
    "STREAM_FRAMES": "it is always 64",
    "TARGET_LOAD": "it is always 0.75",
    "TOP_K": "requests to tier 1 can set top_k",
    "TYPE_K": "use ORPHEUS_KV_TYPE",
    "TYPE_V": "use ORPHEUS_KV_TYPE",
    "VOLUME": "the Volume is always called orpheus-weights",
    "WAITING": "it is always a quarter of ORPHEUS_STREAMS, at least 2",
}


@dataclass(frozen=True)
class SettingRow:
    """One setting as `orpheus settings` prints it."""

    name: str
    value: str
    source: str  # "environment" | ".env" | "default"
    description: str


def unknown_names(*groups: type[Environment]) -> Iterator[str]:
    """A sentence for each ORPHEUS_ name in the environment or in `.env` that is a setting of none of these groups."""
    known = names_in(*groups)
    for name in sorted({*os.environ, *_dotenv()}):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known:
            continue
        if instead := REPLACED.get(upper.removeprefix(PREFIX)):
            yield f"{name} is no longer a setting and is ignored: {instead}."
        else:
            (nearest,) = difflib.get_close_matches(upper, known, n=1, cutoff=0.0)
            yield f"{name} is not a setting and is ignored; did you mean {nearest}?"


def names_in(*groups: type[Environment]) -> list[str]:
    """The names of all settings of these groups."""
    return [setting_name(field) for group in groups for field in group.model_fields]


def setting_rows(settings: Environment) -> Iterator[SettingRow]:
    """All settings with their values, secrets masked, and where each value comes from."""
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    dotenv = {name.upper(): value for name, value in _dotenv().items() if value}
    for field, info in type(settings).model_fields.items():
        name = setting_name(field)
        source = "environment" if name in environment else ".env" if name in dotenv else "default"
        value = getattr(settings, field)
        yield SettingRow(name, "" if value is None else redacted(str(value)), source, info.description or "")


def _dotenv() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}
