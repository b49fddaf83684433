"""How evenly a balancer spreads streams, whom it loses, and how much later the first byte comes through it.

    python -m benchmarks.balancers [--quick]

Real nginx and Envoy, with the configurations of deploy/, in front of three tier 1s and two tier 2s on the embedded
voice. First bytes are asked for directly and through the balancer in turn. Envoy stands in front of tier 1 alone, which
has no sockets. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from benchmarks.balancers.running import NGINX, running_envoy, running_nginx
from orpheus.http.process import free_port
from orpheus.ops.bench.listening import RATE, client, quantile, read_metrics
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.prompt import turn_text
from orpheus.settings import EMBEDDED

STREAMS, WAITING = 4, 2  # of each tier 1
START_S = 60.0
LOOK_S = 0.01
WORD = "Yes."
LONG = turn_text("tara", "The boat drifted slowly down the river, past the mill and the old bridge. " * 3)


def tier(name: str, **environment: str) -> ChildServer:
    """A tier as a process of its own."""
    port = free_port()
    words = [sys.executable, "-m", "orpheus", name, "--supervised", "--port", str(port)]
    settings = {"ORPHEUS_MODEL": EMBEDDED, "ORPHEUS_CODEC": EMBEDDED, "ORPHEUS_LOG_LEVEL": "warning"}
    url = f"http://127.0.0.1:{port}"
    return ChildServer(name, words, url, environment={**settings, **environment}, capture=True)


@contextlib.contextmanager
def running(name: str, count: int, **environment: str) -> Iterator[list[ChildServer]]:
    with contextlib.ExitStack() as stack:
        tiers = [stack.enter_context(tier(name, **environment)) for _ in range(count)]
        wait_until_healthy(tiers, START_S)
        yield tiers


def hosts(tiers: list[ChildServer]) -> list[str]:
    return [server.url.removeprefix("http://") for server in tiers]


def completion(prompt: str, max_tokens: int) -> dict[str, object]:
    return {"prompt": prompt, "stream": True, "max_tokens": max_tokens, "return_token_ids": True}


async def stream(asking: httpx.AsyncClient, url: str, seed: int, begun: list[int] | None = None) -> bool:
    """Read a long completion; whether it came to its end. Its seed is appended to `begun` with its first event."""
    with contextlib.suppress(httpx.HTTPError):
        body = {**completion(LONG, 840), "seed": seed}
        async with asking.stream("POST", f"{url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                return False
            async for line in response.aiter_lines():
                if begun is not None and seed not in begun and line.startswith("data: {"):
                    begun.append(seed)
                if line == "data: [DONE]":
                    return True
    return False


async def loads(asking: httpx.AsyncClient, tiers: list[ChildServer]) -> list[int]:
    answers = [(await asking.get(f"{server.url}/health")).json() for server in tiers]
    return [answer["active"] + answer["waiting"] for answer in answers]


async def rejected(asking: httpx.AsyncClient, server: ChildServer) -> float:
    return read_metrics((await asking.get(f"{server.url}/metrics")).text)["orpheus_rejected_total"]


async def spread(asking: httpx.AsyncClient, url: str, tiers: list[ChildServer]) -> list[int]:
    """Streams of each tier 1, most first, when as many as there is room for have come one after another."""
    count, found = len(tiers) * STREAMS, [0]
    tasks = []
    for seed in range(count):
        tasks.append(asyncio.create_task(stream(asking, url, seed)))
        await asyncio.sleep(LOOK_S)
    for _ in range(100):
        found = max(found, await loads(asking, tiers), key=sum)
        if sum(found) == count or all(task.done() for task in tasks):
            break
        await asyncio.sleep(LOOK_S)
    await asyncio.gather(*tasks)
    return sorted(found, reverse=True)


async def failovers(asking: httpx.AsyncClient, url: str, tiers: list[ChildServer]) -> tuple[int, int, int]:
    """While one tier 1 is full by others' streams: how many were asked for, served, and refused there before."""
    full = tiers[0]
    others = [
        asyncio.create_task(stream(asking, full.url, seed)) for seed in range(100, 100 + STREAMS + WAITING)
    ]
    while (await loads(asking, [full]))[0] < STREAMS + WAITING and not any(task.done() for task in others):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    before = await rejected(asking, full)
    count = STREAMS * (len(tiers) - 1)
    served = await asyncio.gather(*(stream(asking, url, seed) for seed in range(count)))
    elsewhere = await rejected(asking, full) - before
    await asyncio.gather(*others)
    return count, sum(served), int(elsewhere)


async def death(asking: httpx.AsyncClient, url: str, tiers: list[ChildServer]) -> tuple[int, int, int]:
    """One of them is killed: how many streams it had, how many broke off, and of as many asked after it, served."""
    begun: list[int] = []
    count = len(tiers) * 2
    tasks = [asyncio.create_task(stream(asking, url, seed, begun)) for seed in range(count)]
    while len(begun) < count and not all(task.done() for task in tasks):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    counts = await loads(asking, tiers)
    own, dead = max(zip(counts, range(len(tiers)), strict=True))
    tiers[dead].process.kill()
    lost = (await asyncio.gather(*tasks)).count(False)
    served = await asyncio.gather(*(stream(asking, url, seed) for seed in range(count)))
    return own, lost, sum(served)


Ask = Callable[[str, int], Awaitable[float]]  # a URL and a seed: seconds to the first byte of an answer


async def added(ask: Ask, direct: str, through: str, pairs: int) -> dict[str, float]:
    """Milliseconds to the first byte, direct and through a balancer in turn, each first as often as second."""
    taken: dict[str, list[float]] = {direct: [], through: []}
    for number in range(pairs + 5):
        for url in (direct, through) if number % 2 else (through, direct):
            taken[url].append(await ask(url, number))
    direct_ms, through_ms = (
        [1000 * s for s in taken[url][5:]] for url in (direct, through)
    )  # the first warm up
    differences = [late - soon for soon, late in zip(direct_ms, through_ms, strict=True)]
    return {
        "direct_ms_p50": quantile(direct_ms, 0.5),
        "through_ms_p50": quantile(through_ms, 0.5),
        "added_ms_p50": quantile(differences, 0.5),
    }


@contextlib.asynccontextmanager
async def posting(path: str, body: dict[str, object]) -> AsyncIterator[Ask]:
    async def ask(url: str, seed: int) -> float:
        began_s, first_s = time.perf_counter(), 0.0
        async with asking.stream("POST", url + path, json={**body, "seed": seed}) as response:
            response.raise_for_status()
            async for _ in response.aiter_raw():
                first_s = first_s or time.perf_counter() - began_s
        return first_s

    async with client("http://127.0.0.1") as asking:
        yield ask


async def ask_socket(url: str, seed: int) -> float:
    """Speech over a WebSocket, from opening it."""
    began_s, first_s = time.perf_counter(), 0.0
    async with connect(url.replace("http", "ws", 1) + "/v1/audio/speech/stream", proxy=None) as socket:
        config = {"voice": "tara", "response_format": "pcm", "stream_audio": True, "seed": seed}
        for event in (
            {"type": "session.config", **config},
            {"type": "input.text", "text": WORD},
            {"type": "input.done"},
        ):
            await socket.send(json.dumps(event))
        async for message in socket:
            if isinstance(message, bytes):
                first_s = first_s or time.perf_counter() - began_s
            elif json.loads(message)["type"] == "session.done":
                break
    return first_s


async def in_front_of_tier_1(url: str, tiers: list[ChildServer], rounds: int, pairs: int) -> dict[str, float]:
    async with client(url) as asking:
        spreads = [await spread(asking, url, tiers) for _ in range(rounds)]
        asked, served, elsewhere = await failovers(asking, url, tiers)
        async with posting("/v1/completions", completion(turn_text("tara", WORD), 7)) as ask:  # one frame
            late = await added(ask, tiers[0].url, url, pairs)
        own, lost, after = await death(asking, url, tiers)
    worst = max(spreads, key=lambda counts: counts[0] - counts[-1])
    even = sum(counts[0] == counts[-1] for counts in spreads)
    print(
        f"  spread of {sum(worst)} streams: even {even} times of {rounds}, the least: {', '.join(map(str, worst))}"
    )
    print(f"  one full: {served} of {asked} served, {elsewhere} of them after a 429")
    print(f"  one dead: {lost} streams lost, it had {own}; then {after} of {2 * len(tiers)} served")
    print_added("HTTP", late)
    return {
        "spread_most": worst[0],
        "spread_least": worst[-1],
        "asked": asked,
        "served": served,
        "failovers": elsewhere,
        "lost_of_others": max(0, lost - own),
        "lost": lost,
        "unserved_after": 2 * len(tiers) - after,
        **late,
    }


def print_added(what: str, late: dict[str, float]) -> None:
    print(
        f"  first byte, {what}: direct {late['direct_ms_p50']:.2f} ms, through {late['through_ms_p50']:.2f}, "
        f"added {late['added_ms_p50']:+.2f} (p50)"
    )


async def in_front_of_tier_2(direct: str, url: str, pairs: int) -> dict[str, float]:
    speech = {"input": WORD, "voice": "tara", "response_format": "pcm", "sample_rate": RATE}
    async with posting("/v1/audio/speech", speech) as ask:
        http = await added(ask, direct, url, pairs)
    sockets = await added(ask_socket, direct, url, pairs)
    print_added("HTTP", http)
    print_added("WebSocket", sockets)
    return {**http, **{f"socket_{name}": value for name, value in sockets.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds, pairs = (3, 100) if parser.parse_args().quick else (8, 200)
    if not NGINX:
        print("nginx is not installed (apt-get install nginx): Envoy alone")
    result: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        folders = stack.enter_context(tempfile.TemporaryDirectory())
        for name in ("nginx", "Envoy") if NGINX else ("Envoy",):
            folder = Path(folders, name)
            folder.mkdir()
            streams = {"ORPHEUS_STREAMS": str(STREAMS), "ORPHEUS_THREADS": "1"}
            with running("llama", 3, **streams) as tiers:
                balancer = (
                    running_nginx(folder, "llama.conf", hosts(tiers))
                    if name == "nginx"
                    else running_envoy(folder, hosts(tiers))
                )
                with balancer as url:
                    print(f"{name} in front of three tier 1s")
                    found = asyncio.run(in_front_of_tier_1(url, tiers, rounds, pairs))
                    result |= {f"{name.lower()}_{key}": value for key, value in found.items()}
        if NGINX:
            folder = Path(folders, "speech")
            folder.mkdir()
            with (
                running("llama", 1) as (llama,),
                running("speech", 2, ORPHEUS_LLAMA_ENDPOINT=llama.url) as tiers,
                running_nginx(folder, "speech.conf", hosts(tiers)) as url,
            ):
                print("nginx in front of two tier 2s")
                found = asyncio.run(in_front_of_tier_2(tiers[0].url, url, pairs))
                result |= {f"nginx_speech_{key}": value for key, value in found.items()}
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
