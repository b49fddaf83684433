"""A URL and a text → what its listeners heard, and when. Over HTTP alone.

Knows nothing of tables. Raises OrpheusError with a sentence where there is no speech.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field

import httpx
import numpy as np

from orpheus.errors import AtCapacity, EngineError, NotReady, Unauthorized
from orpheus.playout import PlayoutClock

RATE = 24_000
SENTENCE = "The boat drifted slowly down the river."
CHAPTER = (
    "The old house stood at the end of the lane. Nobody had lived there for years. One morning a light was seen in "
    "the upper window! Who could it be? The children stopped on their way to school, and looked, and wondered. "
)
AUDIBLE = 0.01  # of full scale
SILENCE_S = 60.0  # of a server, after which it counts as stuck


@dataclass
class Heard:
    """One response as its listener had it."""

    first_byte_s: float
    first_sound_s: float
    audio_s: float
    wall_s: float
    player: PlayoutClock = field(default_factory=PlayoutClock)  # in real time, without a buffer of its own


def client(url: str, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """As many connections as there are listeners. What the environment says of proxies counts, but not for here."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/"),
        headers=headers or {},
        timeout=httpx.Timeout(SILENCE_S, connect=10),
        limits=httpx.Limits(max_connections=None),
        trust_env=not is_here(url),
    )


def is_here(url: str) -> bool:
    """Whether a URL is of this machine: no proxy is meant for it."""
    return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1", "0.0.0.0")


async def listen(client: httpx.AsyncClient, text: str, seed: int, voice: str = "tara") -> Heard:
    """Ask for `text` as PCM and take it as it comes."""
    body = {
        "input": text,
        "voice": voice,
        "response_format": "pcm",
        "seed": seed,
        "sample_rate": RATE,
    }
    started = time.perf_counter()
    first_byte_s = first_sound_s = 0.0
    samples = 0
    player = PlayoutClock()
    odd = b""
    try:
        async with client.stream("POST", "/v1/audio/speech", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                raise _refusal(response)
            async for chunk in response.aiter_raw():
                now = time.perf_counter() - started
                first_byte_s = first_byte_s or now
                chunk, odd = odd + chunk, b""
                if len(chunk) % 2:
                    chunk, odd = chunk[:-1], chunk[-1:]
                loud = np.flatnonzero(np.abs(np.frombuffer(chunk, "<i2").astype(int)) > AUDIBLE * 32768)
                if not first_sound_s and len(loud):
                    first_sound_s = now + loud[0] / RATE
                player.add(len(chunk) / 2 / RATE, now)
                samples += len(chunk) // 2
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReady(f"Nothing answers at {client.base_url}: {error or 'no connection'}.") from error
    except httpx.TimeoutException as error:
        raise EngineError(f"{client.base_url} sent nothing for {SILENCE_S:g} s; its log says why.") from error
    except httpx.HTTPError as error:
        raise EngineError(
            f"{client.base_url} broke off in the middle: {error or type(error).__name__}."
        ) from error
    took_s = time.perf_counter() - started
    if not samples:
        raise EngineError(f"{client.base_url} answered 200 with no audio.")
    return Heard(first_byte_s, first_sound_s, samples / RATE, took_s, player)


def _refusal(response: httpx.Response) -> Exception:
    try:
        told = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        told = " ".join(response.text.split())
    said = f"{response.url} answered {response.status_code}: {told[:200]}"
    match response.status_code:
        case 401 | 403:
            return Unauthorized(f"{said}. Give a key with --key.")
        case 429:
            return AtCapacity(said)
        case 503:
            return NotReady(said)
        case _:
            return EngineError(said)


async def together(
    url: str, text: str, streams: int, rounds: int, headers: dict[str, str] | None = None
) -> list[Heard]:
    """`streams` requests at a time, `rounds` times."""
    async with client(url, headers) as asking:
        heard: list[Heard] = []
        for turn in range(rounds):
            seeds = range(turn * streams, (turn + 1) * streams)
            heard += await _all(listen(asking, text, seed) for seed in seeds)
        return heard


async def one_by_one(
    url: str, text: str, streams: int, every_s: float, headers: dict[str, str] | None = None
) -> list[Heard]:
    """`streams` listeners who come `every_s` seconds after each other, as people do."""

    async def later(asking: httpx.AsyncClient, seed: int) -> Heard:
        await asyncio.sleep(seed * every_s)
        return await listen(asking, text, seed)

    async with client(url, headers) as asking:
        return await _all(later(asking, seed) for seed in range(streams))


async def _all(listeners: Iterable[Coroutine[None, None, Heard]]) -> list[Heard]:
    """What all have heard; the first failure ends the others."""
    tasks = [asyncio.ensure_future(listener) for listener in listeners]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))
