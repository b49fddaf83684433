"""A finished response as bytes: a checksum, what it cost to make, and its body. Nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

_CHECKSUM_BYTES = 16
_COUNTS = struct.Struct(">QQI")
_SECONDS = ">{}d"


@dataclass(frozen=True)
class CachedResponse:
    """The bytes of one complete stream and what they cost to make."""

    body: bytes
    prompt_tokens: int
    audio_tokens: int
    segments_s: tuple[float, ...] = ()  # when each segment starts, in seconds of audio


def pack(key: str, response: CachedResponse) -> bytes:
    starts = response.segments_s
    counts = _COUNTS.pack(response.prompt_tokens, response.audio_tokens, len(starts))
    rest = counts + struct.pack(_SECONDS.format(len(starts)), *starts) + response.body
    return _checksum(key, rest) + rest


def unpack(key: str, entry: bytes) -> CachedResponse | None:
    """None if these are not the bytes that were packed under this key."""
    rest = entry[_CHECKSUM_BYTES:]
    if len(rest) < _COUNTS.size or entry[:_CHECKSUM_BYTES] != _checksum(key, rest):
        return None
    prompt_tokens, audio_tokens, count = _COUNTS.unpack_from(rest)
    starts = struct.unpack_from(_SECONDS.format(count), rest, _COUNTS.size)
    return CachedResponse(rest[_COUNTS.size + 8 * count :], prompt_tokens, audio_tokens, starts)


def _checksum(key: str, rest: bytes) -> bytes:
    """With the key in it, so that an entry in another's place is known too."""
    digest = hashlib.blake2b(key.encode(), digest_size=_CHECKSUM_BYTES)
    digest.update(rest)
    return digest.digest()
