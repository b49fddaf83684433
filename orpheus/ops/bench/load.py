"""A completions URL and a number of streams → tokens per second, time to first frame, gaps between frames.

Closed loop: each client asks again as soon as it is answered. Raw sockets, because the load runs on the same
cores as the server and an HTTP library would cost more than some of what is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

FRAME_TOKENS = 7


@dataclass
class Load:
    """What `streams` clients saw within the window."""

    streams: int
    seconds: float = 0.0
    warm_s: float = 0.0
    tokens: int = 0
    first_frames_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def row(self) -> dict[str, float | None]:
        return {
            "streams": self.streams,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "ttff_ms_p50": _percentile(self.first_frames_ms, 50),
            "ttff_ms_p99": _percentile(self.first_frames_ms, 99),
            "gap_ms_p99": _percentile(self.gaps_ms, 99),
            "errors": self.errors,
        }


def measure(url: str, body: dict[str, Any], streams: int, seconds: float, warm_s: float = 0.5) -> Load:
    """Load `url` for `warm_s`, then count for `seconds`."""
    return asyncio.run(_measure(url, body, streams, seconds, warm_s))


async def _measure(url: str, body: dict[str, Any], streams: int, seconds: float, warm_s: float) -> Load:
    load = Load(streams)
    begin = time.perf_counter() + warm_s
    end = begin + seconds
    tasks = [asyncio.create_task(_client(url, body, n, load, begin, end)) for n in range(streams)]
    await asyncio.sleep(end - time.perf_counter())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    load.seconds, load.warm_s = seconds, warm_s
    return load


async def _client(url: str, body: dict[str, Any], number: int, load: Load, begin: float, end: float) -> None:
    seed = number
    while True:
        seed += 1000
        try:
            await _one(url, {**body, "seed": seed}, load, begin, end)
        except (OSError, EOFError):
            load.errors += 1
            await asyncio.sleep(0.05)


async def _one(url: str, body: dict[str, Any], load: Load, begin: float, end: float) -> None:
    at = urlsplit(url)
    asked = time.perf_counter()
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        data = json.dumps({**body, "stream": True}).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (at.path.encode(), len(data), data)
        )
        if b" 200 " not in await reader.readline():
            raise OSError("refused")
        tokens, last = 0, asked
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            # Ours sends frames; the others an event a token, whose text may be empty.
            new = line.count(b"<custom_token_") if b'"token_ids"' in line else 1
            before, tokens = tokens // FRAME_TOKENS, tokens + new
            if not begin <= now <= end:
                last = now
                continue
            load.tokens += new
            if tokens // FRAME_TOKENS > before:
                (load.gaps_ms if before else load.first_frames_ms).append((now - last) * 1e3)
                last = now
    finally:
        writer.close()


def _percentile(values: list[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if values else None  # none came within the window
