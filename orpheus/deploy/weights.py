"""The weights of both tiers ↔ a Modal Volume that holds a Hugging Face cache.

Knows nothing of Volumes: to it they are a folder, the one HF_HUB_CACHE names. A cache keeps each file under the
digest the hub gave for it, so what lies there can be checked against its own name.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from orpheus import weights
from orpheus.errors import WeightsError
from orpheus.settings import EMBEDDED, Settings

SHA256, SHA1 = 64, 40  # digits of a digest: of large files, and of small ones as git counts them
READ_BYTES = 1 << 24

log = logging.getLogger(__name__)


def fetch_model(settings: Settings) -> str:
    """The GGUF into the cache, once, and checked each time. Says what was done.

    A broken connection is taken up where it broke; a lost container begins the file anew.
    """
    return _fetched("model", [weights.find_model(settings)], weights.model_name(settings))


def fetch_codec(settings: Settings) -> str:
    """The SNAC checkpoint, likewise."""
    folder = weights.find_codec(settings)
    return _fetched("codec", [folder / name for name in weights.CODEC_FILES], weights.codec_name(settings))


def model_at_hand(settings: Settings) -> Path:
    """The GGUF, which must be there already. WeightsError says how it gets there."""
    try:
        return weights.find_model(settings)
    except WeightsError as error:
        raise _missing(weights.model_name(settings), "orpheus_llama_modal.py", error) from error


def codec_at_hand(settings: Settings) -> Path:
    """The SNAC folder, likewise."""
    try:
        return weights.find_codec(settings)
    except WeightsError as error:
        raise _missing(weights.codec_name(settings), "orpheus_fastapi_modal.py", error) from error


def _fetched(what: str, files: list[Path], name: str) -> str:
    if name == EMBEDDED:
        return f"{what}: embedded, nothing to fetch"
    started = time.monotonic()
    for file in files:
        check_digest(file)
    size = sum(file.stat().st_size for file in files)
    return f"{what}: {name}, {size / 1e6:.0f} MB, checked in {time.monotonic() - started:.1f} s"


def check_digest(file: Path) -> None:
    """WeightsError unless a file of the cache is what its digest says; it is removed, to be fetched again."""
    blob = file.resolve()
    expected = blob.name
    if len(expected) == SHA256:
        digest = hashlib.sha256()
    elif len(expected) == SHA1:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    else:
        raise WeightsError(f"{file} is not in a Hugging Face cache: it cannot be checked.")
    with blob.open("rb") as content:
        while part := content.read(READ_BYTES):
            digest.update(part)
    if digest.hexdigest() != expected:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise WeightsError(f"{file.name} arrived damaged and was removed: run the same command again.")


def _missing(name: str, script: str, error: WeightsError) -> WeightsError:
    return WeightsError(f"{name} is not in the Volume: run `modal run {script}::fetch_weights`. ({error})")
