"""ORPHEUS_CACHE → where finished responses are kept: this process' memory, a folder of this machine, or Redis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

MB = 1_000_000
DEFAULT_MB = {"memory": 256, "file": 1024}  # 256 MB are 90 minutes of PCM at 24 kHz
MAX_MB = 10_000_000
_REDIS = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
_FORMS = "write memory:, file:///FOLDER or redis://HOST:6379/0; ?mb=100 behind the first two says how much may be kept"


@dataclass(frozen=True)
class CacheAddress:
    """A cache, and how many bytes it may hold; Redis has a limit of its own."""

    kind: Literal["memory", "file", "redis"]
    max_bytes: int = 0
    folder: Path = Path()
    url: str = ""  # as redis-py reads it, perhaps with a password


def parse_cache(given: str) -> CacheAddress:
    """ValueError says what to write."""
    try:
        at = urlsplit(given)
        _ = at.port
    except ValueError:
        raise ValueError(_FORMS) from None
    if at.scheme in _REDIS:
        if not (at.path if at.scheme == "unix" else at.hostname):
            raise ValueError(_FORMS)
        return CacheAddress("redis", url=at._replace(scheme=_REDIS[at.scheme]).geturl())
    if at.scheme == "memory" and not at.netloc and not at.path:
        return CacheAddress("memory", _bytes(at.query, "memory"))
    # file://cache would be a folder of the machine `cache`
    if at.scheme == "file" and not at.netloc and len(at.path) > 1 and at.path.startswith("/"):
        return CacheAddress("file", _bytes(at.query, "file"), Path(unquote(at.path)))
    raise ValueError(_FORMS)


def _bytes(query: str, kind: str) -> int:
    options = parse_qs(query, keep_blank_values=True)
    (given,) = options.pop("mb", [str(DEFAULT_MB[kind])])[-1:]
    if options or not given.isdecimal() or len(given) > 8 or not 1 <= int(given) <= MAX_MB:
        raise ValueError(_FORMS)
    return int(given) * MB
