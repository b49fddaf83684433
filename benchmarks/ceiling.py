"""Tier 2's ceiling: what it costs when tier 1 and the codec cost nothing, and so how many listeners one process carries.

    python -m benchmarks.ceiling [--quick] [--pace 1.0] [--streams 200] [--only mp3,opus]

A tier 1 that plays from a list, in a process of its own, sends frames at `--pace` times real time. Tier 2 is the real
one but for its codec, which answers at once with recorded speech. What counts is the processor time of tier 2's process
over the frames that passed, in microseconds of one core a frame, and how long a newcomer among all those listeners waits
for the first byte, when all its frames are there at once. A table, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from benchmarks.ceiling_parts import AT_ONCE, frame_counter
from benchmarks.codec_fidelity import spoken_codes
from orpheus import embedded
from orpheus.codec import Decoder
from orpheus.errors import EngineError
from orpheus.http.process import free_port
from orpheus.ops.bench.codec import streamed
from orpheus.ops.bench.listening import CHAPTER, SENTENCE
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.vocabulary import FRAME_S

WAYS = ("pcm", "mp3", "opus", "wav", "sse", "socket", "unmute", "pcm_in_process")
STREAMS = (1, 32, 200, 500)
MAIN_STREAMS = 200
QUICK_WAYS = ("pcm", "mp3", "opus", "sse", "socket")
TEXT_SENTENCES = 12  # of each listener's text, which then lasts longer than the measurement
NEWCOMER_EVERY_S = 0.1
NEWCOMER = f"{AT_ONCE}, hello there!"


# Listeners


def text_of(dice: random.Random) -> str:
    """A long text whose first segment ends at any time, so that the segments of many listeners do not begin together."""
    words = CHAPTER.replace(".", "").replace("!", "").replace("?", "").replace(",", "").split()
    first = " ".join(dice.choice(words).lower() for _ in range(dice.randrange(4, 45)))
    return f"{first.capitalize()}. " + CHAPTER * TEXT_SENTENCES


def request_bytes(way: str, text: str) -> bytes:
    """What a listener sends on its connection, all at once."""
    if way == "socket":
        messages = [{"type": "session.config", "response_format": "pcm", "word_timestamps": True}]
        messages += [{"type": "input.text", "text": text}, {"type": "input.done"}, {"type": "session.close"}]
        frames = [_frame(1, json.dumps(message).encode()) for message in messages]
        return _upgrade("/v1/audio/speech/stream") + b"".join(frames)
    if way == "unmute":
        spoken = [{"type": "Text", "text": f"{word} "} for word in text.split()] + [{"type": "Eos"}]
        return _upgrade("/api/tts_streaming?format=PcmMessagePack") + b"".join(
            _frame(2, bytes(msgpack.packb(message))) for message in spoken
        )
    options: dict[str, Any] = {"response_format": way}
    if way == "sse":
        options = {"response_format": "pcm", "stream_format": "sse"}
    body = json.dumps({"input": text, "voice": "tara", **options}).encode()
    return (
        b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )


def _upgrade(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def _frame(opcode: int, payload: bytes) -> bytes:
    """A WebSocket frame of a client, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


class Listener(asyncio.Protocol):
    """Counts what it gets; an HTTP library would cost more than what is measured."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.received = 0
        self.status = self.start = b""
        self.first_byte = asyncio.get_running_loop().create_future()  # seconds from the request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._asked_s = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.status, self.start = data[:12], data[:1000]
        self.received += len(data)
        if not self.first_byte.done():
            self.first_byte.set_result(time.perf_counter() - self._asked_s)


async def hear(url_port: int, request: bytes) -> Listener:
    loop = asyncio.get_running_loop()
    _, listener = await loop.create_connection(lambda: Listener(request), "127.0.0.1", url_port)
    return listener


# Measurement


@dataclass(frozen=True)
class Row:
    """One way to listen, with so many listeners."""

    way: str
    streams: int
    us_per_frame: float
    kept_pace: float  # frames that passed / frames that were due; below 1, tier 2 is what is slow
    newcomer_ms: list[float]

    def table_line(self) -> str:
        newcomer = f"{_quantile(self.newcomer_ms, 0.5):6.1f} {_quantile(self.newcomer_ms, 0.95):6.1f}"
        per_core = 1e6 / self.us_per_frame * FRAME_S
        return (
            f"{self.way:15s} {self.streams:7d} {self.us_per_frame:8.1f} {per_core:9.0f} {self.kept_pace:7.2f}  "
            f"{newcomer if self.newcomer_ms else ''}"
        )


class Bench:
    """A tier 1 and the files that its tier 2s need."""

    def __init__(self, folder: Path, pace: float) -> None:
        self._pace = pace
        self._speech = folder / "speech.npy"
        self._counter = folder / "frames.count"
        self._counter.write_bytes(bytes(8))
        codes = spoken_codes(SENTENCE)
        np.save(self._speech, streamed(Decoder.load(embedded.CODEC), codes, [], seed=0))

    @contextlib.contextmanager
    def tier1(self) -> Iterator[str]:
        with self._part("tier1", "/v1/models") as server:
            yield server.url

    @contextlib.contextmanager
    def tier2(self, tier1_url: str) -> Iterator[ChildServer]:
        with self._part("tier2", "/health", tier1_url, str(self._speech), str(self._counter)) as server:
            yield server

    @contextlib.contextmanager
    def _part(self, part: str, health: str, *arguments: str) -> Iterator[ChildServer]:
        port = free_port()
        script = ["-m", "benchmarks.ceiling_parts", part, str(port), str(self._pace), *arguments]
        with ChildServer(
            part,
            [sys.executable, *script],
            f"http://127.0.0.1:{port}",
            health=health,
            environment={"PYTHONPATH": str(Path(__file__).parents[1])},
            capture=True,
        ) as server:
            wait_until_healthy([server], 60.0)
            yield server

    async def measure(self, server: ChildServer, way: str, streams: int, seconds: float) -> Row:
        """Load tier 2 with `streams` listeners, and count for `seconds`."""
        port = int(server.url.rsplit(":", 1)[1])
        dice = random.Random(streams)
        kind = way.removesuffix("_in_process")
        listeners: list[Listener] = []
        ramp_s = min(1.5, streams * 0.01)
        for number in range(streams):
            listeners.append(await hear(port, request_bytes(kind, text_of(dice))))
            await asyncio.sleep(ramp_s / streams if number % 4 == 0 else 0)
        for listener in listeners:
            await asyncio.wait_for(asyncio.shield(listener.first_byte), 60)
            if listener.status not in (b"HTTP/1.1 200", b"HTTP/1.1 101"):
                raise EngineError(f"Tier 2 did not answer: {listener.start!r}. {server.output()[-4000:]}")
        await asyncio.sleep(1.0)
        counter = frame_counter(self._counter)
        frames, cpu_s, began_s = int(counter[0]), cpu_s_of(server), time.monotonic()
        await asyncio.sleep(seconds)
        frames, cpu_s = int(counter[0]) - frames, cpu_s_of(server) - cpu_s
        took_s = time.monotonic() - began_s
        newcomers = await self._newcomers(port) if kind == "pcm" and streams >= MAIN_STREAMS else []
        for listener in listeners:
            listener.transport.abort()
        await asyncio.sleep(0.5)
        due = streams * took_s / FRAME_S * self._pace
        return Row(way, streams, cpu_s / max(1, frames) * 1e6, frames / due, newcomers)

    async def _newcomers(self, port: int) -> list[float]:
        """Milliseconds to the first byte of listeners who come while the others listen."""
        waited_ms = []
        for _ in range(20):
            newcomer = await hear(port, request_bytes("pcm", NEWCOMER))
            waited_ms.append(await newcomer.first_byte * 1e3)
            newcomer.transport.abort()
            await asyncio.sleep(NEWCOMER_EVERY_S)
        return waited_ms


def cpu_s_of(server: ChildServer) -> float:
    """Processor time used so far by all threads of a process, to the nanosecond (Linux)."""
    return time.clock_gettime(
        (~server.process.pid << 3) | 2
    )  # clock_getcpuclockid(3), which Python does not have


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{MAIN_STREAMS} streams only; under a minute")
    parser.add_argument("--pace", type=float, default=1.0, help="of tier 1, as a multiple of real time")
    parser.add_argument("--streams", type=int, nargs="*", help=f"instead of {STREAMS}")
    parser.add_argument("--only", help=f"of {','.join(WAYS)}")
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    counts = options.streams or ((MAIN_STREAMS,) if options.quick else STREAMS)
    ways = options.only.split(",") if options.only else QUICK_WAYS if options.quick else WAYS
    seconds = 3.0 if options.quick else 5.0

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.pace)
        print(f"{'':15s} streams us/frame  per core    pace  newcomer p50, p95 ms", flush=True)
        with bench.tier1() as tier1_url:
            for in_process in (False, True):
                chosen = [way for way in ways if way.endswith("in_process") == in_process]
                if not chosen:
                    continue
                with bench.tier2("in-process" if in_process else tier1_url) as server:
                    for streams in counts:
                        for way in chosen:
                            rows.append(asyncio.run(bench.measure(server, way, streams, seconds)))
                            print(rows[-1].table_line(), flush=True)
    main_rows = [row for row in rows if row.streams == MAIN_STREAMS]
    result: dict[str, Any] = {f"{row.way}_us_per_frame": round(row.us_per_frame, 1) for row in main_rows}
    result |= {f"{row.way}_us_per_frame_{row.streams}": round(row.us_per_frame, 1) for row in rows}
    for row in rows:
        if row.newcomer_ms:
            suffix = "" if row.streams == MAIN_STREAMS else f"_{row.streams}"
            result[f"newcomer_ms_p50{suffix}"] = round(_quantile(row.newcomer_ms, 0.5), 1)
            result[f"newcomer_ms_p95{suffix}"] = round(_quantile(row.newcomer_ms, 0.95), 1)
    print(
        json.dumps(
            {**result, "pace": options.pace, "cores": os.cpu_count(), "date": date.today().isoformat()}
        )
    )


if __name__ == "__main__":
    main()
