"""Audio of the wire ↔ mono float32: 16-bit PCM, µ-law and A-law as they stream, and whole files of any kind.

All that is heard is at `SAMPLE_RATE`. A stream is resampled by one FFmpeg resampler from its first sample to its last,
so nothing clicks where two chunks meet and nothing drifts.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from orpheus.errors import BadRequest
from orpheus.tts.encode import to_int16

SAMPLE_RATE = 16_000  # Hz, of all that is heard
RATE_MIN, RATE_MAX = 8_000, 48_000  # Hz, of PCM on the wire
TELEPHONE_RATE = 8_000  # Hz, the only one of µ-law and A-law
PIECE_SAMPLES = 48_000  # resampled at once: a huge chunk must not be held in every stage at the same time

MAX_INPUT_S = 600  # of a whole file: 38 MB of samples
MAX_DECODE_S = 20.0  # and the time its decoding may take; ten minutes of Opus take one or two
FILE_RATE_MIN, FILE_RATE_MAX = (
    1_000,
    768_000,
)  # Hz, of a file: outside, the resampler's filter would be gigabytes
# What people record, as FFmpeg names it. Its other readers are kept out: playlists fetch what they name, from disk too.
# A frame of more channels than 8, read as an array, would crash the process (PyAV 18.1); FFmpeg mixes them itself.
FILE_CHANNELS_MAX = 8
CONTAINERS = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,matroska,webm,mov,mp4,m4a,3gp,amr,asf"

Samples = NDArray[np.float32]  # mono, about [-1, 1]
Kind = Literal["pcm", "pcmu", "pcma"]


@dataclass(frozen=True)
class AudioFormat:
    """How audio goes over the wire: 16-bit little-endian PCM, or G.711's µ-law or A-law; mono. Rate in Hz.

    BadRequest for a rate that the kind does not have.
    """

    kind: Kind = "pcm"
    rate: int = 24_000

    def __post_init__(self) -> None:
        if self.kind != "pcm" and self.rate != TELEPHONE_RATE:
            raise BadRequest(f"audio/{self.kind} has {TELEPHONE_RATE} samples a second, not {self.rate}.")
        if not RATE_MIN <= self.rate <= RATE_MAX:
            raise BadRequest(f"audio/pcm takes a rate from {RATE_MIN} to {RATE_MAX} Hz, not {self.rate}.")

    @property
    def bytes_per_sample(self) -> int:
        return 2 if self.kind == "pcm" else 1


class InputStream:
    """Bytes as a client sends them, cut anywhere → samples at 16 kHz."""

    def __init__(self, format: AudioFormat) -> None:
        self._decode = _decoder(format.kind)
        self._width = format.bytes_per_sample
        self._resampler = _Resampler(format.rate, SAMPLE_RATE)
        self._odd = b""

    def add(self, data: bytes) -> Samples:
        """The samples that are complete; half of one is kept, and about a millisecond that the filter still needs."""
        data = self._odd + data
        whole = len(data) - len(data) % self._width
        data, self._odd = data[:whole], data[whole:]
        step = PIECE_SAMPLES * self._width
        pieces = (data[start : start + step] for start in range(0, whole, step))
        return _joined([self._resampler.add(self._decode(piece)) for piece in pieces])


class OutputStream:
    """Samples at `source_rate` Hz → bytes for a client."""

    def __init__(self, format: AudioFormat, source_rate: int) -> None:
        self._encode = _encoder(format.kind)
        self._resampler = _Resampler(source_rate, format.rate)

    def add(self, pcm: Samples) -> bytes:
        """The bytes of what is complete: about a millisecond stays in the filter until more comes, or `flush`."""
        return self._encode(self._resampler.add(pcm))

    def flush(self) -> bytes:
        """What is left, so that all of the audio's length has come. The stream may go on after it, as a new one."""
        return self._encode(self._resampler.flush())


class SampleBuffer:
    """Samples by their position since the beginning, at any rate; the oldest are dropped when nobody needs them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.start = 0  # the first sample kept

    @property
    def end(self) -> int:
        return self.start + len(self._data) // 4

    def add(self, samples: Samples) -> None:
        self._data += np.ascontiguousarray(samples, np.float32).tobytes()

    def slice(self, start: int, end: int) -> Samples:
        first, last = max(0, start - self.start), max(0, end - self.start)
        return np.frombuffer(bytes(self._data[4 * first : 4 * last]), np.float32)

    def drop_before(self, position: int) -> None:
        count = min(max(0, position - self.start), self.end - self.start)
        del self._data[: 4 * count]
        self.start += count


def read_audio(data: bytes) -> Samples:
    """A whole file (WAV, MP3, Ogg, WebM, M4A, FLAC and what else FFmpeg reads) → its first sound, mono, at 16 kHz.

    Blocks for up to `MAX_DECODE_S`: call it in a thread. BadRequest if there is no sound in it, it cannot be read, or
    it is longer than `MAX_INPUT_S`.
    """
    if not data:
        raise BadRequest("The audio is empty: send a WAV, MP3, Ogg, WebM, M4A or FLAC file.")
    try:
        samples = _joined(list(_decoded(data)))
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise BadRequest(
            f"The audio cannot be read ({_reason(error)}): send a WAV, MP3, Ogg, WebM, M4A or FLAC file."
        ) from error
    if not len(samples):
        raise BadRequest("The file holds no audio: record again, or send another file.")
    return samples


def _decoded(data: bytes) -> Iterator[Samples]:
    """The samples of a file, part by part, while it keeps to the bounds."""
    until_s = time.monotonic() + MAX_DECODE_S
    only = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    with av.open(io.BytesIO(data), "r", options=only, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise BadRequest("The file holds no audio: send one with sound.")
        length_s = 0.0
        kind: object = None
        converter = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(container.streams.audio[0]):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if not (FILE_RATE_MIN <= rate <= FILE_RATE_MAX and channels <= FILE_CHANNELS_MAX):
                raise BadRequest(f"The audio has {channels} channels at {rate} Hz: send it in mono at 16000.")
            length_s += frame.samples / rate
            if length_s > MAX_INPUT_S:
                raise BadRequest(f"The audio is longer than {MAX_INPUT_S // 60} minutes: send it in parts.")
            if time.monotonic() > until_s:
                raise BadRequest("The audio takes too long to decode: send it as WAV, or in parts.")
            if kind not in (
                None,
                (rate, frame.layout.name, frame.format.name),
            ):  # a file may change in its middle
                yield from _bounded(converter.resample(None))
                converter = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            kind = (rate, frame.layout.name, frame.format.name)
            frame.pts = None  # what a damaged file says of its times is of no use
            yield from _bounded(converter.resample(frame))
        if kind is not None:
            yield from _bounded(converter.resample(None))


def _bounded(frames: list[av.AudioFrame]) -> Iterator[Samples]:
    """Mono frames' samples, within [-1, 1] whatever a file of floats holds."""
    for frame in frames:
        yield np.clip(np.nan_to_num(frame.to_ndarray()[0]), -1, 1)


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the number and the name of the file that it puts around it."""
    said = error.strerror if isinstance(error, av.FFmpegError) else None
    return (said or "it is damaged").rstrip(".").lower()


class _Resampler:
    """One stream of mono samples from one rate to another; none at all where they are the same."""

    def __init__(self, source_rate: int, rate: int) -> None:
        self.source_rate = source_rate
        self._rate = rate
        self._begin()

    def _begin(self) -> None:
        self._swr = av.AudioResampler(format="flt", layout="mono", rate=self._rate)
        self._taken = 0
        self._given = 0

    def add(self, samples: Samples) -> Samples:
        if self.source_rate == self._rate:
            return samples
        parts: list[Samples] = []
        for start in range(0, len(samples), PIECE_SAMPLES):
            piece = np.ascontiguousarray(samples[start : start + PIECE_SAMPLES], np.float32)
            frame = av.AudioFrame.from_ndarray(piece.reshape(1, -1), format="flt", layout="mono")
            frame.sample_rate = self.source_rate
            frame.pts = self._taken
            frame.time_base = Fraction(1, self.source_rate)
            self._taken += len(piece)
            parts += [out.to_ndarray()[0] for out in self._swr.resample(frame)]
        done = _joined(parts)
        self._given += len(done)
        return done

    def flush(self) -> Samples:
        """The rest, to the sample: silence or a cut where the filter ends a sample early or late."""
        if not self._taken:
            return np.zeros(0, np.float32)
        due = round(self._taken * self._rate / self.source_rate) - self._given
        rest = _joined([out.to_ndarray()[0] for out in self._swr.resample(None)])
        self._begin()
        return np.pad(rest, (0, max(0, due - len(rest))))[: max(0, due)]


def _joined(parts: list[Samples]) -> Samples:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _decoder(kind: Kind) -> Callable[[bytes], Samples]:
    if kind == "pcm":
        return lambda data: np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    levels = _levels(kind).astype(np.float32) / np.float32(32768)
    return lambda data: levels[np.frombuffer(data, np.uint8)]


def _encoder(kind: Kind) -> Callable[[Samples], bytes]:
    if kind == "pcm":
        return lambda pcm: to_int16(pcm).tobytes()
    codes = _codes(kind)
    return lambda pcm: codes[to_int16(pcm).astype(np.int32) + 32768].tobytes()


@cache
def _levels(kind: Kind) -> NDArray[np.int16]:
    """(256,) what each byte of G.711 stands for, in 16 bits."""
    byte = np.arange(256)
    if kind == "pcmu":
        byte = ~byte & 0xFF  # sent inverted
        exponent, mantissa = byte >> 4 & 7, byte & 15
        level = ((mantissa << 3) + 0x84 << exponent) - 0x84
        negative = byte >= 0x80
    else:
        byte = byte ^ 0x55  # every other bit is sent inverted
        exponent, mantissa = byte >> 4 & 7, byte & 15
        level = np.where(
            exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 0x108 << np.maximum(exponent, 1) - 1
        )
        negative = byte < 0x80
    return np.where(negative, -level, level).astype(np.int16)


@cache
def _codes(kind: Kind) -> NDArray[np.uint8]:
    """(65536,) the byte of G.711 whose level is nearest to each 16-bit sample, from -32768 on."""
    levels = _levels(kind).astype(np.int32)
    order = np.argsort(levels, kind="stable")
    between = (levels[order][1:] + levels[order][:-1]) / 2
    nearest = order[np.searchsorted(between, np.arange(-32768, 32768), side="right")]
    return nearest.astype(np.uint8)
