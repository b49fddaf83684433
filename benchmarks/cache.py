"""What the cache costs a request and saves it: each store by itself, and a pair that keeps its responses on disk.

python -m benchmarks.cache [redis://HOST:PORT/0]
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator

import httpx

from orpheus.ops.serve import running_pair
from orpheus.server.cache import ResponseCache, open_cache
from orpheus.server.metrics import SpeechMetrics
from orpheus.settings import load_settings
from orpheus.tts.usage import Usage

SIZES = (40_000, 400_000, 4_000_000)  # a sentence as MP3 and as PCM, and the longest that is kept
ROUNDS = 30
TEXT = "Thank you for calling. All our agents are busy at the moment; please hold the line."


async def keep(cache: ResponseCache, key: str, body: bytes) -> float:
    """Seconds until a response is stored, for which nobody waits."""

    async def chunks() -> AsyncGenerator[bytes]:
        yield body

    async for _ in cache.keep(key, Usage(), 24_000, chunks()):
        pass
    began_s = time.perf_counter()
    await cache.written()
    return time.perf_counter() - began_s


async def find(cache: ResponseCache, key: str, *, hit: bool) -> float:
    began_s = time.perf_counter()
    found = await cache.find(key)
    took_s = time.perf_counter() - began_s
    assert (found is not None) == hit
    return took_s


def shown(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{statistics.median(ordered) * 1e3:.2f}, {ordered[len(ordered) * 95 // 100] * 1e3:.2f}"


async def compare(places: dict[str, str]) -> None:
    caches = {name: open_cache(place, SpeechMetrics()) for name, place in places.items()}
    print("ms, p50 and p95 of", ROUNDS)
    print("| store | bytes | miss | hit | written |\n| --- | --- | --- | --- | --- |")
    for size in SIZES:
        body = os.urandom(size)
        taken: dict[str, tuple[list[float], list[float], list[float]]] = {
            name: ([], [], []) for name in caches
        }
        for number in range(ROUNDS):
            for name, cache in caches.items():  # alternating
                misses, hits, writes = taken[name]
                key = f"{size}-{number}"
                misses.append(await find(cache, key, hit=False))
                writes.append(await keep(cache, key, body))
                hits.append(await find(cache, key, hit=True))
        for name, (misses, hits, writes) in taken.items():
            print(f"| {name} | {size:,} | {shown(misses)} | {shown(hits)} | {shown(writes)} |")
    for cache in caches.values():
        await cache.aclose()


def speak(client: httpx.Client, seed: int) -> tuple[float, float]:
    """Seconds to the first byte and to the last."""
    body = {"input": TEXT, "voice": "tara", "seed": seed}
    began_s = time.perf_counter()
    with client.stream("POST", "/v1/audio/speech", json=body) as response:
        chunks = response.iter_raw()
        next(chunks)
        first_s = time.perf_counter() - began_s
        for _ in chunks:
            pass
    return first_s, time.perf_counter() - began_s


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        places = {"memory": "memory:?mb=500", "disk": f"file://{folder}/stores?mb=500"}
        if len(sys.argv) > 1:
            places["Redis"] = sys.argv[1]
        asyncio.run(compare(places))
        settings = load_settings(model="embedded")
        with (
            running_pair(settings, ORPHEUS_CACHE=f"file://{folder}/pair") as pair,
            httpx.Client(base_url=pair.url, timeout=60, trust_env=False) as client,
        ):
            speak(client, 0)
            times = [(speak(client, seed), speak(client, seed)) for seed in range(1, ROUNDS + 1)]
        for name, part in (("first byte", 0), ("all of it", 1)):
            made, kept = [first[part] for first, _ in times], [second[part] for _, second in times]
            print(f"{name}, ms, p50 and p95: made {shown(made)}; from disk {shown(kept)}")


if __name__ == "__main__":
    main()
