"""The processes of `benchmarks.ceiling`: a tier 1 without a model, and tier 2 with a codec that costs nothing.

    python -m benchmarks.ceiling_parts tier1 PORT PACE
    python -m benchmarks.ceiling_parts tier2 PORT PACE TIER1_URL|in-process SPEECH.npy FRAMES.count

The tier 1 sends what ours sends to tier 2, an event a frame with text and token ids, at PACE times real time.
The codec answers at once with recorded speech of the right length, which encoders find as hard as any other.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from orpheus.codec import Codec
from orpheus.codec.checkpoint import PUBLISHED
from orpheus.codec.service import HOLD_FRAMES, RESERVE_S
from orpheus.http.process import Process, listen
from orpheus.pcm import Pcm
from orpheus.playout import PlayoutClock
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.served_model import ServedModel
from orpheus.tts.token_source import Generation, HttpTokenSource, TokenChunk, TokenSource
from orpheus.vocabulary import (
    CODES_PER_SLOT,
    FRAME_S,
    PUBLISHED_BASE_ID,
    PUBLISHED_TOKENS,
    SLOTS,
    number_of,
    token_text,
)

FRAME_SAMPLES = 2048
CHARS_PER_FRAME = 14 * FRAME_S  # of usual speech
TICK_S = FRAME_S / SLOTS  # between two steps of a tier 1 at real time
AT_ONCE = "Newcomer"  # in a text: its frames are all there at once, so that nothing but tier 2 keeps its listener waiting
DIFFERENT_FRAMES = 64  # then they come again: more than the longest loop that tier 2 looks for
MODEL = {"n_vocab": PUBLISHED_TOKENS, "codes_per_slot": CODES_PER_SLOT, "context_tokens": 4096}
MOST_STREAMS = 2000


def frame_numbers() -> list[tuple[int, ...]]:
    """Frames of random codes, as token numbers."""
    dice = random.Random(0)
    return [
        tuple(number_of(slot, dice.randrange(CODES_PER_SLOT)) for slot in range(SLOTS))
        for _ in range(DIFFERENT_FRAMES)
    ]


def frame_count(text: str) -> int:
    """Frames of a segment's speech."""
    return max(4, round(len(text) / CHARS_PER_FRAME))


class Schedule:
    """When each frame of one generation is due: the first at once, then at the pace."""

    def __init__(self, text: str, pace: float) -> None:
        self.frames = frame_count(text)
        self._every_s = 0.0 if AT_ONCE in text else FRAME_S / pace
        self.due_s = time.monotonic()

    def advance(self) -> None:
        self.due_s += self._every_s


# A tier 1


class CompletionsProtocol(asyncio.Protocol):
    """HTTP/1.1 by hand: whatever this process costs is not there for the one that is measured."""

    streams: dict[CompletionsProtocol, Schedule]
    events: list[bytes]
    last: bytes
    pace: float

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""
        self._sent = 0
        self._paused = False

    def connection_lost(self, error: Exception | None) -> None:
        self.streams.pop(self, None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        if head.startswith(b"POST /v1/completions"):
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            prompt = json.loads(body)["prompt"]
            self._sent = 0
            self.streams[self] = Schedule(prompt, self.pace)
            self.send_due(time.monotonic())
        else:
            listed = {"object": "list", "data": [{"id": "orpheus", "owned_by": "orpheus", "meta": MODEL}]}
            answer = json.dumps(listed).encode()
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(answer), answer)
            )

    def send_due(self, now_s: float) -> None:
        """Send the frames that are due; like a real tier 1, wait for a reader that is behind."""
        schedule = self.streams[self]
        while schedule.due_s <= now_s and not self._paused:
            if self._sent == schedule.frames:
                self._transport.write(self.last)
                del self.streams[self]
                return
            self._transport.write(self.events[self._sent % DIFFERENT_FRAMES])
            self._sent += 1
            schedule.advance()


def _chunk(data: str) -> bytes:
    encoded = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(encoded), encoded)


def _event(numbers: tuple[int, ...], reason: str | None = None) -> str:
    """As orpheus/llama/responses.py writes it."""
    choice = {
        "index": 0,
        "text": "".join(map(token_text, numbers)),
        "logprobs": None,
        "finish_reason": reason,
        "token_ids": [PUBLISHED_BASE_ID + number for number in numbers],
    }
    usage = {"usage": {"prompt_tokens": 40, "completion_tokens": 700, "total_tokens": 740}} if reason else {}
    identity = {"id": "cmpl-0123456789abcdef01234567", "object": "text_completion", "created": 1796000000}
    return json.dumps({**identity, "model": "orpheus", "choices": [choice], **usage})


async def serve_tier1(bound: socket.socket, pace: float) -> None:
    CompletionsProtocol.pace = pace
    CompletionsProtocol.streams = {}
    CompletionsProtocol.events = [_chunk(_event(numbers)) for numbers in frame_numbers()]
    CompletionsProtocol.last = _chunk(_event((), "stop")) + _chunk("[DONE]") + b"0\r\n\r\n"
    await asyncio.get_running_loop().create_server(CompletionsProtocol, sock=bound)
    while True:
        await asyncio.sleep(TICK_S)
        now_s = time.monotonic()
        for protocol in list(CompletionsProtocol.streams):
            protocol.send_due(now_s)


# Tier 2


class ScriptedSource:
    """The same frames at the same pace, in tier 2's own process."""

    def __init__(self, pace: float) -> None:
        self._frames = frame_numbers()
        self._pace = pace

    async def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        schedule = Schedule(generation.text, self._pace)
        for number in range(schedule.frames):
            await asyncio.sleep(schedule.due_s - time.monotonic())
            schedule.advance()
            yield TokenChunk(self._frames[number % DIFFERENT_FRAMES])
        yield TokenChunk((), "stop", 40)

    async def check(self) -> None:
        pass

    async def model(self, *, patient: bool = True) -> ServedModel:
        return ServedModel("orpheus", vocabulary=PUBLISHED_TOKENS, codes_per_slot=CODES_PER_SLOT)

    def forget(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class FreeCodec:
    """In place of a Codec: counts the frames that it is given, and answers each with the next of its speech."""

    sample_rate = PUBLISHED.sample_rate
    fingerprint = ""

    def __init__(self, speech: Pcm, count: NDArray[np.int64]) -> None:
        self.decoder = self  # of which only the configuration is asked
        self.config = PUBLISHED
        self.speech = speech
        self.count = count

    def open(self, seed: int, **options: object) -> FreeCodecStream:
        return FreeCodecStream(self)

    def check(self) -> None:
        pass

    def report(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        pass


class FreeCodecStream:
    """Holds frames back by the rule of CodecStream, which spares what follows the codec as much as the codec."""

    def __init__(self, codec: FreeCodec) -> None:
        self._codec = codec
        self._at = 0
        self._held = 0  # frames
        self._playout = PlayoutClock()
        self.taken_s = 0.0  # when it took the latest codes

    async def decode(self, codes: list[int]) -> Pcm:
        frames = len(codes) // SLOTS
        self._codec.count[0] += frames
        self._held += frames
        self.taken_s = time.monotonic()
        if self._held < HOLD_FRAMES and self._playout.buffered_s() > RESERVE_S:
            return self._codec.speech[:0]
        return self._take()

    async def finish(self) -> Pcm:
        return self._take()

    def close(self) -> None:
        pass

    def _take(self) -> Pcm:
        samples, self._held = self._held * FRAME_SAMPLES, 0
        start = self._at % (len(self._codec.speech) - samples)
        self._at = start + samples
        self._playout.add(samples / self._codec.sample_rate)
        return self._codec.speech[start : self._at]


def serve_tier2(bound: socket.socket, pace: float, tier1: str, speech: Path, count: Path) -> None:
    codec = FreeCodec(np.load(speech), frame_counter(count))
    over_http = tier1 != "in-process"
    settings = load_settings(
        llama_endpoint=tier1 if over_http else None, max_requests=MOST_STREAMS, log_level="warning"
    )

    def source() -> TokenSource:
        return HttpTokenSource(settings) if over_http else ScriptedSource(pace)

    service = SpeechService(settings, source, lambda _: cast(Codec, codec))
    Process(settings).serve(create_app(service), bound, service.drain)


def frame_counter(path: Path) -> NDArray[np.int64]:
    """A number that two processes share: the frames that the codec was given so far."""
    return cast("NDArray[np.int64]", np.memmap(path, np.int64, "r+", shape=(1,)))


def main() -> None:
    part, port, pace, *rest = sys.argv[1:]
    bound = listen("127.0.0.1", int(port), "another port")
    if part == "tier1":
        bound.setblocking(False)
        asyncio.run(serve_tier1(bound, float(pace)))
    else:
        tier1, speech, count = rest
        serve_tier2(bound, float(pace), tier1, Path(speech), Path(count))


if __name__ == "__main__":
    main()
