"""Opus as microphones and speakers in browsers stream it: Ogg both ways, and WebM in.

    bytes, cut anywhere ─▶ OpusReader ─▶ samples            samples ─▶ OggOpusWriter ─▶ a page of Ogg for every 20 ms

libopus does the coding, through PyAV. The containers are read here, because FFmpeg's readers want files: they block, hold
back what they have read, and end at the first damage. These give every packet with its last byte, hold no more than one
page, and after damage go on at the next page or cluster.

A reader starts where a stream begins. What comes before is skipped: a page may first send what its recorder still had of
an older connection. A stream that begins in the middle of another takes its place.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from secrets import randbits
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from orpheus.agent.audio import SAMPLE_RATE, Samples
from orpheus.errors import BadRequest
from orpheus.tts.encode import to_int16

OUTPUT_RATE = 24_000  # Hz, of what is written
FRAME_MS = 20  # of audio in a page
BIT_RATE = 48_000  # bits a second of what is written
PRE_SKIP = 312  # samples at 48 kHz by which libopus is late: the reader drops them

PIECE_S = 0.5  # of audio, about, in what a reader gives at once: a message may hold hours
PIECE_STEPS = 50  # and as many packets, or other parts of a container, at most
MAX_ADDED_S = 60  # of audio with one call: who sends hours in a message would not be seen to leave
MAX_PACKET_BYTES = 61_440  # the longest that RFC 6716 allows, and more than anybody sends
MAX_SKIPPED_BYTES = 16 * 1024  # of no use, before the client is told: some seconds
MAX_CHANNELS = 2  # more are coded as several streams

OGG, WEBM = b"OggS", b"\x1a\x45\xdf\xa3"
KIND_BYTES = 8  # that tell kinds of files apart
_OTHERS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"ID3": "MP3", b"caff": "CAF"}
_WANTED = "send Opus in Ogg or WebM, mono, from its beginning (MediaRecorder: audio/webm;codecs=opus)."
_NO_SAMPLES = np.zeros(0, np.float32)


# Ogg (RFC 3533, RFC 7845)
# magic, version, flags, position, serial, number, checksum, count of the lacing
_PAGE = struct.Struct("<4sBBQIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags
_HEAD_BYTES = 19  # of OpusHead
_MAX_PAGE_BYTES = _PAGE.size + 255 + 255 * 255
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_IN_VAIN = 8  # bytes that may be checked for each that is skipped: what looks like pages must not cost more

# WebM (RFC 8794, RFC 9559)
_EBML, _SEGMENT, _CLUSTER, _TRACKS, _TRACK = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE
_GROUP, _SIMPLE_BLOCK, _BLOCK = 0xA0, 0xA3, 0xA1
_NUMBER, _CODEC, _PRIVATE = 0xD7, 0x86, 0x63A2
_ENTERED = {_SEGMENT, _CLUSTER, _TRACKS, _TRACK, _GROUP}  # whose parts are read as if they stood alone
_MAX_ELEMENT_BYTES = 256 * 1024  # a picture of a video; more is damage
_LACED = 0x06
_UNKNOWN = 1 << 56  # a length that is not told, or no element at all


class OggOpusWriter:
    """Mono samples at `OUTPUT_RATE` → one stream of Ogg-Opus, which never ends."""

    def __init__(self) -> None:
        self._codec: Any = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate = OUTPUT_RATE
        self._codec.layout = "mono"
        self._codec.format = "s16"
        self._codec.bit_rate = BIT_RATE
        self._codec.options = {"frame_duration": str(FRAME_MS)}
        self._frame_samples = OUTPUT_RATE * FRAME_MS // 1000
        self._late = PRE_SKIP * OUTPUT_RATE // 48_000
        self._rest = np.zeros(0, np.int16)  # less than a frame
        self._owed = 0  # samples that the decoder will give only after as much more
        self._serial = randbits(32)
        self._pages = 0
        self._position = 0  # in samples at 48 kHz

    def begin(self) -> bytes:
        """The stream's two header pages, if they were not given yet; without a call the first page is behind them."""
        if self._pages:
            return b""
        head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, PRE_SKIP, OUTPUT_RATE, 0, 0)
        vendor = b"orpheus"
        tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
        return self._page(head, _FIRST) + self._page(tags)

    def write(self, pcm: Samples | NDArray[np.int16]) -> bytes:
        """The pages of every 20 ms that are complete; what is left waits for more, or for `flush`."""
        new = pcm.astype(np.int16) if pcm.dtype == np.int16 else to_int16(pcm.astype(np.float32))
        samples = np.concatenate([self._rest, new])
        whole = len(samples) - len(samples) % self._frame_samples
        self._rest = samples[whole:]
        frames = samples[:whole].reshape(-1, self._frame_samples)
        if len(frames):
            self._owed = self._late
        return self.begin() + b"".join(self._encode(frame) for frame in frames)

    def flush(self) -> bytes:
        """The pages of what is left, with silence behind it, so that all of it is heard. The stream goes on after it."""
        owed = len(self._rest) + self._late if len(self._rest) else self._owed
        if not owed:
            return b""
        frames = -(-owed // self._frame_samples)
        pages = self.write(np.zeros(frames * self._frame_samples - len(self._rest), np.int16))
        self._owed = 0
        return pages

    def _encode(self, samples: NDArray[np.int16]) -> bytes:
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = OUTPUT_RATE
        pages = b""
        for packet in self._codec.encode(frame):
            self._position += 48 * FRAME_MS
            pages += self._page(bytes(packet))
        return pages

    def _page(self, packet: bytes, flags: int = 0) -> bytes:
        lacing = b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])
        fields = flags, self._position, self._serial, self._pages, 0, len(lacing)
        page = _PAGE.pack(OGG, 0, *fields) + lacing + packet
        self._pages += 1
        return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


class _Reader(ABC):
    """A container's bytes → samples."""

    def __init__(self, rate: int = SAMPLE_RATE) -> None:
        """`rate` in Hz, of the samples."""
        self._rate = rate
        self._buffer = bytearray()
        self._decoder: _Decoder | None = None  # of the stream that is heard
        self._skipped = 0  # bytes since the last of use
        self._error: BadRequest | None = None  # that the client must learn of

    def add(self, data: bytes) -> Iterator[Samples]:
        """The samples that are complete with these bytes, in pieces that are decoded as they are taken; some are empty.

        Take them all before adding more, and give others their turn in between, or let `pour` do so. BadRequest behind
        the last, once, where `MAX_SKIPPED_BYTES` in a row were of no use, a stream began that cannot be heard, or there
        is more than `MAX_ADDED_S` of it, the rest of which is dropped; the reader goes on after it.
        """
        self._buffer += data
        return self._pieces()

    def _pieces(self) -> Iterator[Samples]:
        piece = [_NO_SAMPLES]
        count = total = 0
        for step, packet in enumerate(self._packets(), 1):
            if packet and self._decoder is not None:
                piece.append(self._decoder.decode(packet))
                count += len(piece[-1])
                total += len(piece[-1])
            if total > MAX_ADDED_S * self._rate:
                self._buffer.clear()
                self._error = _refusal(f"is longer than {MAX_ADDED_S} s", "send it as it is recorded.")
                break
            if count >= PIECE_S * self._rate or step % PIECE_STEPS == 0:
                yield np.concatenate(piece)
                piece, count = [_NO_SAMPLES], 0
        yield np.concatenate(piece)
        error, self._error = self._error, None
        if error is not None:
            raise error

    @abstractmethod
    def _packets(self) -> Iterator[bytes]:
        """Take from the buffer what is complete in it, step by step: packets for the decoder, and empty bytes."""

    def _begin(self, head: bytes) -> bool:
        """A stream with this OpusHead begins; False if it cannot be heard."""
        channels = head[9]
        if channels > MAX_CHANNELS:
            self._error = _refusal(f"has {channels} channels")
            return False
        self._decoder = _Decoder(int.from_bytes(head[10:12], "little"), self._rate)
        return True

    def _skip(self, size: int) -> None:
        """The next bytes of the buffer are of no use."""
        before, self._skipped = self._skipped, self._skipped + size
        del self._buffer[:size]
        if before < MAX_SKIPPED_BYTES <= self._skipped:
            self._error = _refusal("cannot be read")


def _refusal(what: str, wanted: str = _WANTED) -> BadRequest:
    return BadRequest(f"The audio {what}: {wanted}", code="unsupported_audio")


class _Decoder:
    """Packets of one Opus stream → samples."""

    def __init__(self, pre_skip: int, rate: int) -> None:
        self._codec: Any = av.CodecContext.create("libopus", "r")
        # With one channel, whatever the stream has, libopus mixes by itself.
        self._codec.extradata = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, pre_skip, 48_000, 0, 0)
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)

    def decode(self, packet: bytes) -> Samples:
        """Nothing of a damaged packet."""
        try:
            frames = self._codec.decode(av.Packet(packet))
        except av.InvalidDataError:
            return _NO_SAMPLES
        parts = [_NO_SAMPLES]
        for frame in frames:
            frame.pts = None
            parts += [out.to_ndarray()[0] for out in self._resampler.resample(frame)]
        return np.concatenate(parts)


class OggOpusReader(_Reader):
    """Ogg-Opus → samples. Other streams between its pages are ignored."""

    def __init__(self, rate: int = SAMPLE_RATE) -> None:
        super().__init__(rate)
        self._serial: int | None = None
        self._next = 0  # the number of the next page
        self._packet: bytearray | None = None  # begun on the page before
        self._checked = 0  # bytes in vain

    def _packets(self) -> Iterator[bytes]:
        while (page := self._page()) is not None:
            yield b""
            if page:
                yield from self._packets_of(page)

    def _page(self) -> bytes | None:
        """The next page of the stream; empty where something else was skipped, None where more bytes are needed."""
        at = self._buffer.find(OGG)
        if at:
            self._skip(at if at > 0 else max(0, len(self._buffer) - (len(OGG) - 1)))
            return None if at < 0 else b""
        size = self._size(0)
        if size > len(self._buffer):
            inner = self._buffer.find(OGG, len(OGG))
            if inner < 0 or not self._is_right(inner):
                return None
            self._skip(inner)  # the outer was cut, or never was a page
        elif not size:
            self._skip(len(OGG))
        elif not self._is_right(0):
            self._checked += size
            affordable = self._checked <= _IN_VAIN * (self._skipped + _MAX_PAGE_BYTES)
            self._skip(len(OGG) if affordable else size)
        else:
            self._checked = 0
            page = bytes(self._buffer[:size])
            if self._begins(page) or _PAGE.unpack_from(page)[4] == self._serial:
                del self._buffer[:size]
                self._skipped = 0
                return page
            self._skip(size)
        return b""

    def _size(self, at: int) -> int:
        """Bytes of the page at a place, or more than there are while that is not known; 0 if it is none."""
        if len(self._buffer) - at < _PAGE.size:
            return len(self._buffer) + 1
        _, version, flags, *_, count = _PAGE.unpack_from(self._buffer, at)
        if version or flags > _CONTINUED | _FIRST | _LAST:
            return 0
        lengths = self._buffer[at + _PAGE.size : at + _PAGE.size + count]
        return _PAGE.size + count + sum(lengths) if len(lengths) == count else len(self._buffer) + 1

    def _is_right(self, at: int) -> bool:
        """Whether the page at a place is complete and as it was sent."""
        size = self._size(at)
        page = bytes(self._buffer[at : at + size])
        return 0 < size == len(page) and _checksum(page) == _PAGE.unpack_from(page)[6]

    def _begins(self, page: bytes) -> bool:
        """Whether a stream that can be heard begins with this page."""
        _, _, flags, _, serial, number, _, count = _PAGE.unpack_from(page)
        head = page[_PAGE.size + count :]
        if not (flags & _FIRST and head.startswith(b"OpusHead") and len(head) >= _HEAD_BYTES):
            return False
        self._serial, self._next, self._packet = None, number, None
        if self._begin(head):
            self._serial = serial
        return self._serial is not None

    def _packets_of(self, page: bytes) -> Iterator[bytes]:
        _, _, flags, _, _, number, _, count = _PAGE.unpack_from(page)
        packet = self._packet if flags & _CONTINUED and number == self._next else None
        whole = not flags & _CONTINUED or packet is not None
        packet = packet or bytearray()
        self._next, self._packet = number + 1, None
        at = _PAGE.size + count
        length = 0
        for length in page[_PAGE.size : at]:
            if len(packet) <= MAX_PACKET_BYTES:
                packet += page[at : at + length]
            at += length
            if length < 255:
                is_head = packet.startswith((b"OpusHead", b"OpusTags"))
                if whole and len(packet) <= MAX_PACKET_BYTES and not is_head:
                    yield bytes(packet)
                packet, whole = bytearray(), True
        if length == 255 and whole:
            self._packet = packet
        if flags & _LAST:
            self._serial = None


def _checksum(page: bytes) -> int:
    """Of a page, as if its own field were zero: CRC-32 like zlib's, but with the bits of every byte the other way."""
    page = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


class WebmReader(_Reader):
    """WebM with Opus, as MediaRecorder streams it → samples of its first Opus track."""

    def __init__(self, rate: int = SAMPLE_RATE) -> None:
        super().__init__(rate)
        self._lost = True  # until a stream begins or, where one is known, a cluster of it
        self._entry: dict[int, bytes] = {}  # the track that is being described
        self._track: int | None = None  # that is heard
        self._other = "no audio"  # or the codec of a track that is not heard

    def _packets(self) -> Iterator[bytes]:
        while (packet := self._step()) is not None:
            yield packet

    def _step(self) -> bytes | None:
        """Take one element: the packet of a block, or nothing of others; None where more bytes are needed."""
        if self._lost:
            return self._find()
        element = _element(self._buffer)
        if element is None:
            return None
        id, size, start = element
        if id in _ENTERED:
            del self._buffer[:start]
            self._enter(id)
        elif size > _MAX_ELEMENT_BYTES:
            self._lost = True
            self._skip(1)
        elif (inner := self._mark(start, start + size)) >= 0:
            self._skip(inner)  # the element was cut, or never was one
        elif len(self._buffer) < start + size:
            return None
        else:
            body = bytes(self._buffer[start : start + size])
            del self._buffer[: start + size]
            if id == _EBML:
                self._enter(id)
            elif id in (_SIMPLE_BLOCK, _BLOCK):
                return self._packet(body)
            elif id in (_NUMBER, _CODEC, _PRIVATE):
                self._entry[id] = body
        return b""

    def _mark(self, start: int, end: int) -> int:
        """Where between two places a stream begins or, once one has begun, a cluster of it; -1 if nowhere."""
        marks = [WEBM] if self._track is None else [WEBM, _CLUSTER.to_bytes(4, "big")]
        found = (self._buffer.find(mark, start, end) for mark in marks)
        return min((at for at in found if at >= 0), default=-1)

    def _find(self) -> bytes | None:
        """Skip to where it can be read again; None if that has not come yet."""
        at = self._mark(0, len(self._buffer))
        self._lost = at < 0
        self._skip(max(0, len(self._buffer) - (len(WEBM) - 1)) if self._lost else at)
        return None if self._lost else b""

    def _enter(self, id: int) -> None:
        if id in (_EBML, _TRACK, _CLUSTER):
            self._end_entry()
        if id == _EBML:
            self._decoder, self._track, self._other = None, None, "no audio"
        elif id == _CLUSTER and self._track is None and not self._lost:
            self._error = _refusal(f"is WebM with {self._other}")
            self._lost = True

    def _end_entry(self) -> None:
        """The track is described completely."""
        entry, self._entry = self._entry, {}
        codec = entry.get(_CODEC, b"")
        if codec != b"A_OPUS" or _NUMBER not in entry:
            self._other = codec[:40].decode(errors="replace") or self._other
        elif self._track is None:
            if self._begin(entry.get(_PRIVATE, b"").ljust(_HEAD_BYTES, b"\0")):
                self._track = int.from_bytes(entry[_NUMBER], "big")
            else:
                self._lost = True

    def _packet(self, block: bytes) -> bytes:
        """Nothing of another track's block, or of one with several packets, which nobody streams."""
        number = _number(block, 0)
        if number is None or number[0] != self._track:
            return b""
        flags = number[1] + 2  # behind the time
        if len(block) <= flags or block[flags] & _LACED:
            return b""
        self._skipped = 0
        return block[flags + 1 :]


def _element(data: bytearray) -> tuple[int, int, int] | None:
    """The id of the element at the start, the bytes of its body and where that begins; None if they are not all there."""
    if not data:
        return None
    id_bytes = 9 - data[0].bit_length()
    if id_bytes > 4:
        return 0, _UNKNOWN, 1
    number = _number(data, id_bytes)
    return None if number is None else (int.from_bytes(data[:id_bytes], "big"), *number)


def _number(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """The number at a place, and the place behind it; None if it is not complete."""
    if at >= len(data):
        return None
    size = 9 - data[at].bit_length()
    if at + size > len(data):
        return None
    ones = (1 << 7 * size) - 1
    value = int.from_bytes(data[at : at + size], "big") & ones
    return (_UNKNOWN if value == ones else value), at + size


class OpusReader:
    """Ogg or WebM, whichever begins first → samples."""

    def __init__(self, rate: int = SAMPLE_RATE) -> None:
        """`rate` in Hz, of the samples."""
        self._rate = rate
        self._reader: OggOpusReader | WebmReader | None = None
        self._start = b""
        self._skipped = 0

    def add(self, data: bytes) -> Iterator[Samples]:
        """As the readers', and BadRequest at once for bytes that begin a file of another kind."""
        if self._reader is None:
            data, self._start = self._start + data, b""
            if not self._skipped:
                if len(data) < KIND_BYTES:
                    self._start = data
                    return iter(())
                if kind := other_kind(data):
                    raise _refusal(f"is {kind}")
            ogg, webm = data.find(OGG), data.find(WEBM)
            if ogg < 0 and webm < 0:
                self._skip(data)
                return iter(())
            is_ogg = webm < 0 or 0 <= ogg < webm
            self._reader = (OggOpusReader if is_ogg else WebmReader)(self._rate)
        return self._reader.add(data)

    def _skip(self, data: bytes) -> None:
        self._start = data[1 - len(OGG) :]
        before, self._skipped = self._skipped, self._skipped + len(data) - len(self._start)
        if before < MAX_SKIPPED_BYTES <= self._skipped:
            raise _refusal("cannot be read")


def other_kind(data: bytes) -> str | None:
    """What a file that begins with these `KIND_BYTES` is, if it is neither Ogg nor WebM but well known."""
    if data[4:8] == b"ftyp":
        return "MP4"
    return next((kind for magic, kind in _OTHERS.items() if data.startswith(magic)), None)


async def pour(
    reader: OpusReader | OggOpusReader | WebmReader, data: bytes, hear: Callable[[Samples], Awaitable[None]]
) -> None:
    """Let be heard what a reader makes of these bytes, and give others their turn. BadRequest as `add`."""
    for samples in reader.add(data):
        if len(samples):
            await hear(samples)
        await asyncio.sleep(0)
