"""The weights of both tiers in the Volume, which holds a Hugging Face cache: fetched, checked, found.

The Volume is simply the folder HF_HUB_CACHE names. The cache names each file after the digest the hub gave for it, so
a file can be checked against its own name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orpheus import weights
from orpheus.errors import WeightsError
from orpheus.settings import EMBEDDED, Settings

SHA256, SHA1 = 64, 40  # hex digits of the digest of a large file, and of a small one as git computes it
READ_BYTES = 1 << 24


def fetch_model(settings: Settings) -> str:
    """Put the GGUF into the cache unless it is there, and check it. Returns a summary.

    A broken connection resumes where it broke; a lost container starts the file again.
    """
    return _checked("model", weights.model_name(settings), [weights.find_model(settings)])


def fetch_codec(settings: Settings) -> str:
    """Like `fetch_model`, for the SNAC checkpoint."""
    folder = weights.find_codec(settings)
    return _checked("codec", weights.codec_name(settings), [folder / name for name in weights.CODEC_FILES])


@contextmanager
def in_volume(script: str) -> Iterator[None]:
    """For containers that serve and never fetch: a WeightsError raised in the body says how to fetch the weights."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(
            f"The weights are not in the Volume: run `modal run {script}::fetch_weights`. ({error})"
        ) from error


def _checked(what: str, name: str, files: list[Path]) -> str:
    if name == EMBEDDED:
        return f"{what}: embedded, nothing to fetch"
    started = time.monotonic()
    for file in files:
        check_digest(file)
    size = sum(file.stat().st_size for file in files)
    return f"{what}: {name}, {size / 1e6:.0f} MB, checked in {time.monotonic() - started:.1f} s"


def check_digest(file: Path) -> None:
    """Raise WeightsError if a file of the cache is not what its digest says, and remove it so it is fetched again."""
    blob = file.resolve()
    if len(blob.name) == SHA256:
        digest = hashlib.sha256()
    elif len(blob.name) == SHA1:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    else:
        raise WeightsError(f"{file} is not in a Hugging Face cache: it cannot be checked.")
    with blob.open("rb") as content:
        while part := content.read(READ_BYTES):
            digest.update(part)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise WeightsError(f"{file.name} arrived damaged and was removed: run the same command again.")
