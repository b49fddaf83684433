"""Listeners over HTTP: request speech from a running pair, or tokens from its tier 1, and record when what arrives.

Times are seconds since the request. Raises OrpheusError if no speech comes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from orpheus.errors import AtCapacity, EngineError, NotReady, OrpheusError, Unauthorized
from orpheus.http.sse import read_events
from orpheus.playout import PlayoutClock
from orpheus.prompt import turn_text

RATE = 24_000  # Hz
SENTENCE = "The boat drifted slowly down the river."
CHAPTER = (
    "The old house stood at the end of the lane. Nobody had lived there for years. One morning a light was seen in "
    "the upper window! Who could it be? The children stopped on their way to school, and looked, and wondered. "
)
AUDIBLE = 0.01  # of full scale
SPREAD_S = 5.0  # in which listeners who are to be held begin
STUCK_S = 60.0  # longest silence of a server
MOST_EVENT_BYTES = 1 << 26  # a cached answer is one event, with all of its audio


@dataclass
class PlaybackReport:
    """One response as its listener received it."""

    first_byte_s: float
    first_sound_s: float  # the first audible sample
    audio_s: float
    wall_s: float
    playout: PlayoutClock  # of a player in real time, without a buffer of its own


def is_here(url: str) -> bool:
    """Whether a URL names this machine, which is never reached through a proxy."""
    return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def client(url: str, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """As many connections as there are listeners, through the environment's proxies unless the URL is of this machine."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/"),
        headers=headers or {},
        timeout=httpx.Timeout(STUCK_S, connect=10),
        limits=httpx.Limits(max_connections=None),
        trust_env=not is_here(url),
    )


def read_metrics(text: str) -> dict[str, float]:
    """The values of a `/metrics` page, by name and labels as written there."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        with contextlib.suppress(ValueError):  # comments
            found[name] = float(value)
    return found


async def listen(client: httpx.AsyncClient, text: str, seed: int) -> PlaybackReport:
    """Ask for `text` as PCM, and play it as it comes."""
    started_s = time.perf_counter()
    first_byte_s = first_sound_s = 0.0
    playout = PlayoutClock()
    size, odd = 0, b""
    async with _asked(client, text, seed) as response:
        async for chunk in response.aiter_raw():
            now_s = time.perf_counter() - started_s
            first_byte_s = first_byte_s or now_s
            size += len(chunk)
            chunk = odd + chunk
            chunk, odd = (chunk[:-1], chunk[-1:]) if len(chunk) % 2 else (chunk, b"")
            loud = np.flatnonzero(np.abs(_samples(chunk)) > AUDIBLE)
            if not first_sound_s and len(loud):
                first_sound_s = now_s + loud[0] / RATE
            playout.add(len(chunk) / 2 / RATE, now_s)
    if not size:
        raise EngineError(f"{client.base_url} answered 200 with no audio.")
    wall_s = time.perf_counter() - started_s
    return PlaybackReport(first_byte_s, first_sound_s, size / 2 / RATE, wall_s, playout)


async def listen_to_segments(
    url: str, text: str, seed: int, headers: dict[str, str] | None = None
) -> tuple[NDArray[np.float64], list[float]]:
    """The samples of `text` within ±1, and where its segments begin, in seconds."""
    pcm, starts_s = b"", []
    async with (
        client(url, headers) as asking,
        _asked(asking, text, seed, stream_format="sse") as response,
    ):
        async for data in read_events(response.aiter_bytes(), MOST_EVENT_BYTES):
            event = json.loads(data)
            pcm += base64.b64decode(event.get("audio", ""))
            starts_s += event.get("segments_s", [])
    return _samples(pcm), starts_s


def pauses_s(pcm: NDArray[np.float64], starts_s: list[float]) -> list[float]:
    """Between one segment and the next, from the last audible sample to the first."""
    sound = np.flatnonzero(np.abs(pcm) >= AUDIBLE)
    edges = np.searchsorted(sound, [round(start_s * RATE) for start_s in starts_s[1:]])
    return [float(sound[edge] - sound[edge - 1]) / RATE for edge in edges if 0 < edge < len(sound)]


async def frames_from_tier_1(client: httpx.AsyncClient, text: str, frames: int, seed: int) -> float:
    """Seconds until tier 1, at the client's URL, has sent so many frames of `text`."""
    body = {"prompt": turn_text("tara", text), "stream": True, "max_tokens": 900, "seed": seed}
    body["return_token_ids"] = True  # an event a frame
    started_s = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as events:
        async for data in read_events(events.aiter_bytes()):
            frames -= "custom_token" in data
            if not frames:
                return time.perf_counter() - started_s
    raise EngineError(f"{client.base_url} ended a completion before its first frames.")


async def together(
    url: str,
    text: str,
    streams: int,
    rounds: int = 1,
    headers: dict[str, str] | None = None,
    every_s: float = 0.0,
    first_seed: int = 0,
) -> list[PlaybackReport]:
    """`streams` requests at a time, each `every_s` after the one before, and that `rounds` times; each its own seed.

    The first failure ends the others and is raised.
    """

    async def later(number: int, seed: int) -> PlaybackReport:
        await asyncio.sleep(number * every_s)
        return await listen(asking, text, seed)

    reports: list[PlaybackReport] = []
    async with client(url, headers) as asking:
        for turn in range(rounds):
            tasks = [asyncio.create_task(later(n, first_seed + turn * streams + n)) for n in range(streams)]
            try:
                reports += await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    return reports


async def held(
    url: str, text: str, listeners: int, seconds: float, headers: dict[str, str] | None = None
) -> list[PlaybackReport]:
    """So many listeners for so long: each asks for `text` again once it has heard it, and not all at the same time.

    The first failure ends the others and is raised.
    """
    reports: list[PlaybackReport] = []
    started_s = time.perf_counter()

    async def listener(number: int, asking: httpx.AsyncClient) -> None:
        for seed in itertools.count(number, listeners):
            asked_s = time.perf_counter()
            if asked_s - started_s > seconds:
                return
            report = await listen(asking, text, seed)
            reports.append(report)
            assert report.playout.ends_s is not None
            await asyncio.sleep(asked_s + report.playout.ends_s - time.perf_counter())

    async with client(url, headers) as asking, asyncio.TaskGroup() as tasks:
        for number in range(listeners):
            tasks.create_task(listener(number, asking))
            await asyncio.sleep(SPREAD_S / listeners)
    return reports


def quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


@contextlib.asynccontextmanager
async def _asked(
    client: httpx.AsyncClient, text: str, seed: int, **options: Any
) -> AsyncIterator[httpx.Response]:
    """A response with status 200, whose body is read inside; httpx's errors become sentences."""
    body = {"input": text, "voice": "tara", "response_format": "pcm", "seed": seed, "sample_rate": RATE}
    try:
        async with client.stream("POST", "/v1/audio/speech", json={**body, **options}) as response:
            if response.status_code != 200:
                await response.aread()
                raise _refusal(response)
            yield response
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReady(f"Nothing answers at {client.base_url}: {error or 'no connection'}.") from error
    except httpx.TimeoutException as error:
        raise EngineError(f"{client.base_url} sent nothing for {STUCK_S:g} s; its log says why.") from error
    except httpx.HTTPError as error:
        raise EngineError(
            f"{client.base_url} broke off in the middle ({error or type(error).__name__}); its log says why."
        ) from error


def _refusal(response: httpx.Response) -> OrpheusError:
    try:
        reason = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        reason = " ".join(response.text.split())
    sentence = f"{response.url} answered {response.status_code}: {reason[:200]}"
    if response.status_code in (401, 403):
        return Unauthorized(f"{sentence}. Give a key with --key.")
    kinds: dict[int, type[OrpheusError]] = {429: AtCapacity, 503: NotReady}
    return kinds.get(response.status_code, EngineError)(sentence)


def _samples(pcm: bytes) -> NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2") / 32768
