"""PCM (mono float32 within ±1) → bytes of wav, pcm, mp3, opus, aac or flac as they come, at any speed and sample rate.

One encoder per response, never per sentence, so that no padding falls between sentences. Encoding, tempo and
resampling are FFmpeg's, through PyAV.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, Protocol, get_args

import av
import av.filter
import numpy as np
from numpy.typing import NDArray

from orpheus.pcm import Pcm

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
FORMATS: tuple[Format, ...] = get_args(Format)

CONTENT_TYPES: dict[Format, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg; codecs=opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
SPEED_MIN, SPEED_MAX = 0.25, 4.0
STREAMING_SIZE = 0xFFFFFFFF  # the length is not known yet; OpenAI's own WAV streams say the same

# Rates the codecs support; a rate in between becomes the next one up.
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def encoded_rate(format: Format, sample_rate: int) -> int:
    """The sample rate in Hz that a format is encoded at when `sample_rate` is requested."""
    rates = {"opus": _OPUS_RATES, "mp3": _MP3_RATES, "aac": _MP3_RATES}.get(format)
    return sample_rate if rates is None else min(rate for rate in rates if rate >= sample_rate)


class Encoder(Protocol):
    """One audio stream. `write` samples in [-1, 1] any number of times, then `flush` once.

    `light`: a call takes a few microseconds, less than handing it to a thread would.
    """

    light: bool

    def write(self, pcm: Pcm) -> bytes: ...

    def flush(self) -> bytes: ...


def open_encoder(
    format: Format,
    *,
    source_rate: int,
    sample_rate: int | None = None,
    speed: float = 1.0,
    whole: bool = False,
) -> Encoder:
    """An encoder from mono samples at `source_rate` Hz into `format` at `sample_rate` Hz (default: the same).

    With `whole`, a container's bytes come only from `flush`, and its header holds the true length.
    """
    rate = encoded_rate(format, sample_rate or source_rate)
    if format == "pcm":
        encoder: Encoder = _Raw(b"")
    elif format == "wav":
        encoder = _WholeWav(rate) if whole else _Raw(wav_header(rate))
    else:
        encoder = _Container(format, rate, whole)
    if speed == 1.0 and rate == source_rate:
        return encoder  # no filter, so that the samples stay exactly the codec's
    return _Filtered(encoder, source_rate, rate, speed)


def to_int16(pcm: Pcm) -> NDArray[np.int16]:
    """Samples in [-1, 1] → 16-bit, rounded and clipped."""
    scaled: NDArray[np.float32] = np.clip(np.rint(pcm * 32767.0), -32768, 32767)
    return scaled.astype("<i2")


def wav_header(sample_rate: int, data_bytes: int = STREAMING_SIZE) -> bytes:
    """The 44 bytes before mono 16-bit samples; `data_bytes` is their length, if known."""
    riff = STREAMING_SIZE if data_bytes == STREAMING_SIZE else 36 + data_bytes
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16,
        b"data", data_bytes,
    )  # fmt: skip


class _Raw:
    """16-bit samples behind a header, which is sent with the first of them."""

    light = True

    def __init__(self, header: bytes) -> None:
        self._header = header

    def write(self, pcm: Pcm) -> bytes:
        header, self._header = self._header, b""
        return header + to_int16(pcm).tobytes()

    def flush(self) -> bytes:
        header, self._header = self._header, b""
        return header


class _WholeWav:
    """A WAV file whose header waits for its length."""

    light = False  # joining a long one takes a while

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._parts: list[bytes] = []

    def write(self, pcm: Pcm) -> bytes:
        self._parts.append(to_int16(pcm).tobytes())
        return b""

    def flush(self) -> bytes:
        return b"".join([wav_header(self._sample_rate, sum(map(len, self._parts))), *self._parts])


class _Sink:
    """A write-only file: a muxer that cannot seek cannot patch bytes that were already sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class _SeekableSink(io.BytesIO):
    """A file in which a muxer may seek back to write lengths it learns at the end; nothing can be sent before."""

    def take(self) -> bytes:
        return b""


# muxer, codec, bits per second, sample format, muxer options. No Xing header and no ID3 tag: both need a seek, and
# clients concatenate MP3 streams. Pages of 20 ms: by default Ogg holds back a second.
_CONTAINERS: dict[str, tuple[str, str, int | None, str, dict[str, str]]] = {
    "mp3": ("mp3", "libmp3lame", 128_000, "s16p", {"write_xing": "0", "id3v2_version": "0"}),
    "opus": ("ogg", "libopus", 48_000, "s16", {"page_duration": "20000"}),
    "aac": ("adts", "aac", 96_000, "fltp", {}),
    "flac": ("flac", "flac", None, "s16", {}),
}
# What FFmpeg's defaults do beyond these takes 1.7 and 4 times as long and is not heard: benchmarks.encoders.
ENCODER_OPTIONS: dict[str, dict[str, str]] = {
    "mp3": {"compression_level": "7"},
    "opus": {"compression_level": "4"},
}


class _Container:
    """One of FFmpeg's encoders in its container."""

    light = False

    def __init__(self, format: Format, sample_rate: int, whole: bool) -> None:
        muxer, codec, bit_rate, sample_format, options = _CONTAINERS[format]
        self._sink = _SeekableSink() if whole else _Sink()
        if whole:  # the Xing header holds the exact length and the encoder's padding
            options = {**options, "write_xing": "1"} if format == "mp3" else options
        self._container = av.open(self._sink, "w", format=muxer, options={**options, "flush_packets": "1"})
        stream: Any = self._container.add_stream(
            codec,
            rate=sample_rate,
            options=ENCODER_OPTIONS.get(format, {}),
            layout="mono",
            format=sample_format,
        )
        if bit_rate:
            stream.bit_rate = bit_rate
        self._stream = stream
        self._rate = sample_rate
        self._written = 0

    def write(self, pcm: Pcm) -> bytes:
        if len(pcm):
            frame = av.AudioFrame.from_ndarray(to_int16(pcm).reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = self._rate
            frame.pts = self._written
            frame.time_base = Fraction(1, self._rate)
            self._written += len(pcm)
            self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def flush(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take() if isinstance(self._sink, _Sink) else self._sink.getvalue()


class _Filtered:
    """Changes tempo and sample rate on the way into another encoder, in one filter graph."""

    light = False

    def __init__(self, encoder: Encoder, source_rate: int, rate: int, speed: float) -> None:
        self._encoder = encoder
        self._source_rate = source_rate
        self._fed = 0
        self._graph = av.filter.Graph()
        chain: list[Any] = [
            self._graph.add_abuffer(
                format="flt", sample_rate=source_rate, layout="mono", time_base=Fraction(1, source_rate)
            )
        ]
        chain += [self._graph.add("atempo", f"{tempo:.6f}") for tempo in _tempos(speed)]
        if rate != source_rate:
            chain.append(self._graph.add("aresample", str(rate)))
        chain.append(self._graph.add("aformat", "sample_fmts=flt:channel_layouts=mono"))
        chain.append(self._graph.add("abuffersink"))
        for left, right in itertools.pairwise(chain):
            left.link_to(right)
        self._graph.configure()

    def write(self, pcm: Pcm) -> bytes:
        if not len(pcm):
            return b""
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(pcm, dtype=np.float32).reshape(1, -1), format="flt", layout="mono"
        )
        frame.sample_rate = self._source_rate
        frame.pts = self._fed
        frame.time_base = Fraction(1, self._source_rate)
        self._fed += len(pcm)
        self._graph.push(frame)
        return b"".join(self._encoder.write(out) for out in self._pull())

    def flush(self) -> bytes:
        out = b""
        if self._fed:
            self._graph.push(None)
            out = b"".join(self._encoder.write(pcm) for pcm in self._pull())
        return out + self._encoder.flush()

    def _pull(self) -> Iterator[Pcm]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)


def _tempos(speed: float) -> list[float]:
    """Stages of atempo: each skips samples above 2, so 4 is 2 × 2 and 0.25 is 0.5 × 0.5."""
    if speed == 1.0:
        return []
    if 0.5 <= speed <= 2.0:
        return [speed]
    return [speed**0.5] * 2
