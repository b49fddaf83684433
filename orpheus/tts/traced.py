"""The work that recurs with every frame, codec and encoder, told as one span each: from its first call to its last.

While tracing is off, both functions return what they are given.
"""

from __future__ import annotations

import time
from typing import Protocol

from orpheus import tracing
from orpheus.codec.service import CodecStream
from orpheus.codec.stream import Codes
from orpheus.pcm import Pcm
from orpheus.tts.encode import Encoder


class Decoding(Protocol):
    """What the pipeline needs of a `CodecStream`."""

    @property
    def taken_s(self) -> float: ...

    async def decode(self, codes: Codes) -> Pcm: ...

    async def finish(self) -> Pcm: ...

    def close(self) -> None: ...


def traced_decoder(stream: CodecStream) -> Decoding:
    """In a span `codec`, which ends when the stream is closed."""
    return _TracedDecoder(stream) if tracing.is_on() else stream


def traced_encoder(encoder: Encoder, format: str) -> Encoder:
    """In a span `encode`, which ends when the encoder is flushed."""
    return _TracedEncoder(encoder, format) if tracing.is_on() else encoder


class _Busy:
    """Adds up the time of calls, waits for their turn included."""

    def __init__(self) -> None:
        self.below = tracing.here()
        self.first_s: float | None = None
        self.busy_s = self.last_s = 0.0

    def add(self, since_s: float) -> None:
        self.last_s = time.monotonic()
        self.busy_s += self.last_s - since_s
        if self.first_s is None:
            self.first_s = since_s

    def tell(self, name: str, **attributes: tracing.Attribute) -> None:
        if self.first_s is not None:
            busy_ms = round(self.busy_s * 1000, 3)
            tracing.record(name, self.first_s, self.last_s, self.below, busy_ms=busy_ms, **attributes)


class _TracedDecoder:
    def __init__(self, stream: CodecStream) -> None:
        self._stream = stream
        self._busy = _Busy()
        self._samples = 0

    @property
    def taken_s(self) -> float:
        return self._stream.taken_s

    async def decode(self, codes: Codes) -> Pcm:
        since_s = time.monotonic()
        pcm = await self._stream.decode(codes)
        self._busy.add(since_s)
        self._samples += len(pcm)
        return pcm

    async def finish(self) -> Pcm:
        since_s = time.monotonic()
        pcm = await self._stream.finish()
        self._busy.add(since_s)
        self._samples += len(pcm)
        return pcm

    def close(self) -> None:
        self._stream.close()
        self._busy.tell("codec", samples=self._samples)


class _TracedEncoder:
    def __init__(self, encoder: Encoder, format: str) -> None:
        self._encoder = encoder
        self.light = encoder.light
        self._format = format
        self._busy = _Busy()
        self._bytes = 0

    def write(self, pcm: Pcm) -> bytes:
        since_s = time.monotonic()
        chunk = self._encoder.write(pcm)
        self._busy.add(since_s)
        self._bytes += len(chunk)
        return chunk

    def flush(self) -> bytes:
        since_s = time.monotonic()
        chunk = self._encoder.flush()
        self._busy.add(since_s)
        self._busy.tell("encode", format=self._format, bytes=self._bytes + len(chunk))
        return chunk
