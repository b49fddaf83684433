"""Several tier 1s behind a real nginx and a real Envoy, and several tier 2s behind nginx, as they are configured in deploy/."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from benchmarks.balancers.running import NGINX, running_envoy, running_nginx
from tests.support.live import clean_environment, free_port, healthy
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.slow
STREAMS = 2  # of each tier 1
WAITING = 2  # may wait in each besides
LONG = "<|audio|>tara: " + "The boat drifted slowly down the river, past the mill and the old bridge. " * 3


class Tier1:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"llama-{self.port}.log"
        environment = clean_environment(
            ORPHEUS_STREAMS=str(STREAMS), ORPHEUS_DRAIN_S="20", ORPHEUS_THREADS="1", ORPHEUS_MODEL="embedded"
        )
        words = [sys.executable, "-P", "-m", "orpheus", "llama", "--port", str(self.port)]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(words, env=environment, cwd=folder, stdout=output, stderr=output)

    def load(self) -> dict[str, int]:
        return dict(httpx.get(f"{self.url}/health", trust_env=False).json())

    def streams(self) -> int:
        load = self.load()
        return load["active"] + load["waiting"]


@contextlib.contextmanager
def running_llamas(folder: Path, count: int = 3) -> Iterator[list[Tier1]]:
    llamas = [Tier1(folder) for _ in range(count)]
    try:
        for llama in llamas:
            eventually(lambda llama=llama: healthy(llama.url), within_s=60)  # type: ignore[misc]
        yield llamas
    finally:
        for llama in llamas:
            llama.process.kill()
            llama.process.wait(20)


@contextlib.contextmanager
def balanced(folder: Path, balancer: str) -> Iterator[tuple[list[Tier1], str]]:
    """Three tier 1s, and the address of all."""
    if balancer == "nginx" and not NGINX:
        pytest.skip("nginx is not installed")
    with running_llamas(folder) as llamas:
        servers = [f"127.0.0.1:{llama.port}" for llama in llamas]
        with (
            running_nginx(folder, "llama.conf", servers)
            if balancer == "nginx"
            else running_envoy(folder, servers) as url
        ):
            yield llamas, url


@pytest.fixture(scope="module", params=["nginx", "envoy"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Tier1], str, str]]:
    with balanced(tmp_path_factory.mktemp("balanced"), request.param) as (llamas, url):
        yield llamas, url, request.param


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as made:
        yield made


class Stream:
    """A completion that is read to its end, or to where it is broken off, in a task of its own."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.status = 0
        self.headers: httpx.Headers | None = None
        self.tokens = 0
        self.complete = False
        self.task = asyncio.create_task(self._read(client, url))

    async def _read(self, client: httpx.AsyncClient, url: str) -> None:
        body = {"prompt": LONG, "stream": True, "max_tokens": 420, "temperature": 0.6, "seed": 1}
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            self.status, self.headers = response.status_code, response.headers
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    self.complete = True
                elif line.startswith("data: "):
                    self.tokens += "text" in json.loads(line[6:])["choices"][0]

    async def begun(self) -> int:
        """Its status, once there is one."""
        await until(lambda: self.status != 0, within_s=60)
        return self.status

    async def ended(self) -> bool:
        """Whether it came to its end, not broken off."""
        with contextlib.suppress(httpx.HTTPError):
            await self.task
        return self.complete


async def ended(streams: list[Stream]) -> list[bool]:
    return [await stream.ended() for stream in streams]


async def begin(client: httpx.AsyncClient, url: str, count: int) -> list[Stream]:
    streams = [Stream(client, url) for _ in range(count)]
    assert [await stream.begun() for stream in streams] == [200] * count
    return streams


async def fill(client: httpx.AsyncClient, url: str, llamas: list[Tier1]) -> list[Stream]:
    """So many streams that one more is refused."""
    count = len(llamas) * (STREAMS + WAITING)
    streams = [Stream(client, url) for _ in range(count)]
    await until(lambda: sum(llama.streams() for llama in llamas) == count)
    return streams


@pytest.mark.anyio
async def test_streams_are_spread_evenly_and_the_next_is_asked_if_one_is_full(
    shared: tuple[list[Tier1], str, str], client: httpx.AsyncClient
) -> None:
    llamas, url, balancer = shared
    streams = [Stream(client, url) for _ in range(3 * STREAMS)]
    spread: list[int] = []
    while sum(spread) < 3 * STREAMS:
        await asyncio.sleep(0.01)
        spread = [llama.streams() for llama in llamas]
    # Envoy draws three, and may miss one; but it has just begun, and all of them have to be known to it.
    assert spread == [STREAMS] * 3 or (balancer == "envoy" and min(spread) > 0)
    assert await ended(streams) == [True] * 3 * STREAMS

    others = await fill(client, llamas[0].url, llamas[:1])  # of another balancer
    streams = await begin(client, url, 2 * STREAMS)
    assert await ended(streams) == [True] * 2 * STREAMS
    await ended(others)


@pytest.mark.anyio
async def test_if_all_are_full_their_refusal_is_the_answer(
    shared: tuple[list[Tier1], str, str], client: httpx.AsyncClient
) -> None:
    llamas, url, _ = shared
    streams = await fill(client, url, llamas)
    one_more = Stream(client, url)
    assert await one_more.begun() == 429
    assert one_more.headers
    assert int(one_more.headers["retry-after"]) >= 1
    assert await ended(streams) == [True] * len(streams)
    assert await ended(await begin(client, url, 3)) == [True] * 3  # nobody is left out for having been full


@pytest.mark.anyio
async def test_a_token_is_sent_when_it_is_there_and_a_cancelled_stream_stops_where_it_runs(
    shared: tuple[list[Tier1], str, str], client: httpx.AsyncClient
) -> None:
    llamas, url, _ = shared
    streams = await begin(client, url, 3)
    await until(lambda: all(stream.tokens for stream in streams))
    assert sum(llama.streams() for llama in llamas) == 3  # while it goes on
    streams[0].task.cancel()
    await until(lambda: sum(llama.streams() for llama in llamas) < 3)
    assert await ended(streams[1:]) == [True, True]
    assert sum(llama.load()["tokens"] for llama in llamas) > 0


@pytest.mark.anyio
@pytest.mark.parametrize("balancer", ["nginx", "envoy"])
async def test_the_dead_and_the_leaving_take_only_their_own_streams_with_them(
    tmp_path: Path, client: httpx.AsyncClient, balancer: str
) -> None:
    with balanced(tmp_path, balancer) as (llamas, url):
        streams = await begin(client, url, 6)
        await until(lambda: all(stream.tokens for stream in streams))
        llamas.sort(key=lambda llama: -llama.streams())
        own = llamas[0].streams()
        llamas[0].process.kill()
        assert 1 <= (await ended(streams)).count(False) <= own
        assert await ended(await begin(client, url, 4)) == [True] * 4

        streams = await begin(client, url, 2)
        llamas[1].process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in llamas[1].log.read_text() or not healthy(llamas[1].url))
        more = await begin(client, url, 1)  # goes to the last
        assert await ended([*streams, *more]) == [True] * 3
        assert await asyncio.to_thread(llamas[1].process.wait, 20) in (0, -signal.SIGTERM)

        streams = await fill(client, url, llamas[2:])
        refused = Stream(client, url)
        # The last that lives is full. Until Envoy has noticed that the others are gone, it may answer for one of them.
        assert await refused.begun() == 429 or balancer == "envoy"
        assert await ended(streams) == [True] * len(streams)


@pytest.fixture(scope="module")
def speeches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of two tier 2s, in front of a tier 1."""
    if not NGINX:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("speeches")
    ports = [free_port(), free_port()]
    words = [sys.executable, "-P", "-m", "orpheus", "speech", "--port"]
    with contextlib.ExitStack() as stack:
        (llama,) = stack.enter_context(running_llamas(folder, 1))
        environment = clean_environment(
            ORPHEUS_LLAMA_ENDPOINT=llama.url,
            ORPHEUS_API_KEYS="secret",
            ORPHEUS_MAX_REQUESTS="2",
            no_proxy="*",
        )
        for port in ports:
            process = subprocess.Popen([*words, str(port)], env=environment, cwd=folder)
            stack.callback(process.wait, 20)
            stack.callback(process.kill)
        for port in ports:
            eventually(lambda port=port: healthy(f"http://127.0.0.1:{port}"), within_s=60)  # type: ignore[misc]
        servers = [f"127.0.0.1:{port}" for port in ports]
        yield stack.enter_context(running_nginx(folder, "speech.conf", servers))


KEY = {"Authorization": "Bearer secret"}


def test_speech_comes_while_it_is_generated_and_a_full_tier_2_passes_requests_on(speeches: str) -> None:
    text = {
        "input": "The boat drifted slowly down the river. " * 8,
        "voice": "tara",
        "response_format": "pcm",
    }
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(
            httpx.Client(base_url=speeches, timeout=60, trust_env=False, headers=KEY)
        )
        answers = [
            stack.enter_context(client.stream("POST", "/v1/audio/speech", json=text)) for _ in range(4)
        ]
        chunks = [answer.iter_raw() for answer in answers]
        assert [answer.status_code for answer in answers] == [200] * 4
        firsts = [next(each) for each in chunks]  # all at once: two in each tier 2
        refused = client.post("/v1/audio/speech", json=text)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        for first, rest in zip(firsts, chunks, strict=True):
            assert len(first) < 100_000
            assert len(first) + sum(map(len, rest)) > 8 * 48_000
    assert httpx.post(f"{speeches}/v1/audio/speech", json=text, trust_env=False).status_code == 401


@pytest.mark.anyio
async def test_websockets_pass(speeches: str) -> None:
    url = speeches.replace("http", "ws", 1) + "/v1/audio/speech/stream"
    async with websockets.connect(url, proxy=None, additional_headers=KEY) as socket:
        await socket.send(json.dumps({"type": "session.config", "response_format": "pcm"}))
        await socket.send(json.dumps({"type": "input.text", "text": "The boat drifted down the river."}))
        await socket.send(json.dumps({"type": "input.done"}))
        size, types = 0, []
        async for frame in socket:
            if isinstance(frame, bytes):
                size += len(frame)
            else:
                types.append(json.loads(frame)["type"])
                if types[-1] == "session.done":
                    break
        assert size > 24_000
        assert "audio.done" in types


def test_the_page_of_the_balancer_is_its_own(speeches: str) -> None:
    """A browser's page may call the server that it came from, whose name is the balancer's."""
    host = speeches.removeprefix("http://")
    for origin, status in ((speeches, 400), ("http://elsewhere.example", 403)):
        headers = {**KEY, "Origin": origin, "Host": host}
        answer = httpx.post(f"{speeches}/v1/audio/speech", json={}, headers=headers, trust_env=False)
        assert answer.status_code == status
