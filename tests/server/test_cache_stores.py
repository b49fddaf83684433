"""Where responses are kept: in memory, on disk and in Redis; what a store that is broken, full or hostile does."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orpheus.cache_address import MB, parse_cache
from orpheus.errors import SetupError
from orpheus.server.cache import CachedResponse, ResponseCache, guard, key_of, open_cache
from orpheus.server.cache.disk import FILE, DiskStore
from orpheus.server.cache.entry import pack, unpack
from orpheus.server.metrics import SpeechMetrics
from orpheus.settings import load_settings
from orpheus.text import Segment
from orpheus.tts.params import SpeechParams
from orpheus.tts.usage import Usage
from tests.support.live import clean_environment, free_port, running_pair
from tests.support.redis_server import NoRedis, running_redis
from tests.support.speech import PATH, ask
from tests.support.upstream import Upstream
from tests.support.waiting import until

Start = Callable[..., httpx.Client]
BODY = bytes(range(256)) * 100
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", "file", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return "memory:?mb=1" if request.param == "memory" else f"file://{tmp_path}/kept?mb=1"


def count(metrics: SpeechMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"orpheus_speech_{name}_total", labels) or 0.0


async def make(cache: ResponseCache, key: str, body: bytes = BODY) -> None:
    """A response of this body, kept."""

    async def chunks() -> AsyncGenerator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    usage = Usage(prompt_tokens=3, audio_tokens=7)
    usage.segments = [Segment("a", 0, start=0), Segment("b", 0, start=12_000)]
    assert b"".join([chunk async for chunk in cache.keep(key, usage, 24_000, chunks())]) == body
    await cache.written()


async def test_what_is_kept_is_found_whole_and_what_is_not_is_a_miss(where: str) -> None:
    metrics = SpeechMetrics()
    cache = open_cache(where, metrics)
    key = key_of([], SpeechParams(voice=None, sampling=None, max_tokens=1), {"test": time.time()})  # type: ignore[arg-type]
    assert await cache.find(key) is None
    await make(cache, key)
    assert await cache.find(key) == CachedResponse(BODY, 3, 7, (0.0, 0.5))
    assert await cache.find(key[::-1]) is None
    assert (count(metrics, "cache", result="hit"), count(metrics, "cache", result="miss")) == (1, 2)
    assert (
        count(metrics, "cache_bytes", work="read") == count(metrics, "cache_bytes", work="write") == len(BODY)
    )
    await cache.aclose()


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_servers_share_what_one_of_them_has_made(
    speech: Start, upstream: Upstream, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    where = f"file://{tmp_path}" if kind == "file" else str(request.getfixturevalue("redis_url"))
    body = ask(seed=7, response_format="mp3")
    first, second = speech(cache=where), speech(cache=where)
    made = first.post(PATH, json=body)
    deadline = time.monotonic() + 10
    while 'cache_bytes_total{work="write"}' not in first.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = second.post(PATH, json=body)
    assert (made.headers["x-cache"], found.headers["x-cache"]) == ("miss", "hit")
    assert found.content == made.content
    assert len(upstream.requests) == 1
    # What else decides the bytes, and is not in the request.
    other = speech(cache=where, postprocess=True)
    assert other.post(PATH, json=body).headers["x-cache"] == "miss"


def test_all_that_decides_the_bytes_is_in_the_key_and_the_text_is_not(
    speech: Start, upstream: Upstream, tmp_path: Path
) -> None:
    client = speech(cache=f"file://{tmp_path}")
    spoken = [ask(seed=1, input=text) for text in ("Quite a private text.", " Quite a  private text.\n")]
    assert [client.post(PATH, json=body).headers["x-cache"] for body in spoken] == ["miss", "hit"]
    deadline = time.monotonic() + 10
    while 'cache_bytes_total{work="write"}' not in client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kept = b"".join(file.read_bytes() for file in tmp_path.glob(f"{FILE}*"))
    assert b"RIFF" in kept or b"ID3" in kept or len(kept) > 10_000
    assert b"private" not in kept
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_another_model_codec_or_setting_is_another_key() -> None:
    params = SpeechParams(voice=None, sampling=None, max_tokens=1)  # type: ignore[arg-type]
    made_by: dict[str, Any] = {"model": {"fingerprint": "a"}, "codec": "c", "postprocess": True}
    others = [{"model": {"fingerprint": "b"}}, {"codec": "d"}, {"postprocess": False}]
    segments = [Segment("Hello.", 0)]
    keys = {key_of(segments, params, made_by | other) for other in [{}, *others]}
    keys |= {
        key_of(changed, params, made_by)
        for changed in ([Segment("Hello!", 0)], [Segment("Hello.", 100)], segments * 2)
    }
    assert len(keys) == 7
    assert all(len(key) == 64 for key in keys)


def test_the_codecs_fingerprint_is_that_of_its_weights(tmp_path: Path) -> None:
    from orpheus import embedded
    from orpheus.codec.checkpoint import fingerprint_of

    for file in embedded.CODEC.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert fingerprint_of(tmp_path) == fingerprint_of(embedded.CODEC)
    weights = tmp_path / "pytorch_model.bin"
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    assert fingerprint_of(tmp_path) != fingerprint_of(embedded.CODEC)


async def test_a_folder_holds_no_more_than_it_may_and_keeps_what_is_used(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, MB)
    for number in range(40):
        await store.put(f"{number}", bytes([number]) * 90_000)
        assert await store.get("0") is not None, number
    kept = [number for number in range(40) if await store.get(f"{number}")]
    assert len(kept) >= 6
    assert kept == [0, *range(41 - len(kept), 40)]
    assert (tmp_path / FILE).stat().st_size <= MB
    await store.put("large", bytes(2 * MB))
    assert await store.get("large") is None
    await store.aclose()
    smaller = DiskStore(tmp_path, MB // 2)  # the setting was lowered
    await smaller.put("more", bytes(90_000))
    await smaller.aclose()
    assert (tmp_path / FILE).stat().st_size <= MB // 2


async def test_a_restart_keeps_what_is_on_disk_and_several_write_at_once(tmp_path: Path) -> None:
    stores = [DiskStore(tmp_path, 10 * MB) for _ in range(3)]
    numbers = itertools.count()
    await asyncio.gather(*(store.put(f"{next(numbers)}", BODY) for store in stores * 8))
    for store in stores:
        await store.aclose()
    again = DiskStore(tmp_path, 10 * MB)
    assert [await again.get(f"{number}") for number in range(24)] == [BODY] * 24
    await again.aclose()


async def test_a_damaged_entry_is_a_miss_and_removed(where: str) -> None:
    metrics = SpeechMetrics()
    cache = open_cache(where, metrics)
    assert cache._store
    for damaged in (
        b"",
        b"short",
        pack("another", CachedResponse(BODY, 1, 1)),
        pack("key", CachedResponse(BODY, 1, 1))[:-1],
    ):
        await cache._store.put("key", damaged)
        assert await cache.find("key") is None
        assert await cache._store.get("key") is None
    assert count(metrics, "cache_errors", work="damaged") == 4
    await cache.aclose()


def test_an_entry_is_what_was_packed() -> None:
    response = CachedResponse(b"", 0, 2**40, (0.0,) * 3)
    assert unpack("k", pack("k", response)) == response


async def test_a_damaged_file_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"This is no database. " * 5000)
    store = DiskStore(tmp_path, MB)
    assert "is damaged" in caplog.text
    await store.put("key", BODY)
    assert await store.get("key") == BODY

    # And while it is open: another process writes over it.
    await store._run(lambda: store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
    size = (tmp_path / FILE).stat().st_size
    with (tmp_path / FILE).open("r+b") as file:
        file.write(b"\xff" * size)
    cache = ResponseCache(store, SpeechMetrics())
    caplog.clear()
    await store._run(lambda: store._db.execute("PRAGMA shrink_memory"))
    for number in range(3):
        cache._keeping._again_s = 0
        await make(cache, f"{number}")
    await until(lambda: "is damaged" in caplog.text)
    cache._keeping._again_s = cache._reading._again_s = 0
    await make(cache, "new")
    assert await cache.find("new")
    await cache.aclose()


async def test_a_folder_that_is_deleted_is_begun_anew(tmp_path: Path) -> None:
    stores = [DiskStore(tmp_path / "cache", MB) for _ in range(2)]
    await stores[0].put("key", BODY)
    shutil.rmtree(tmp_path / "cache")
    for store in stores:
        assert await store.get("key") is None
    await stores[0].put("key", BODY)
    assert await stores[1].get("key") == BODY
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("kind", ["under a file", "a folder in its place", "a file system that takes none"])
def test_a_folder_that_cannot_hold_it_is_told_at_the_start(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / FILE).mkdir(parents=True)
    folder = {"under a file": tmp_path / "file/cache", "a folder in its place": tmp_path / "taken"}
    with pytest.raises(SetupError, match=r"cannot hold a cache \(.+\)\. Name a folder .* or unset it\."):
        open_cache(f"file://{folder.get(kind, '/proc/cache')}", SpeechMetrics())


@pytest.mark.parametrize(
    "given",
    [
        "yes",
        "256",
        "memory:?mb=0",
        "memory:?mb=many",
        "memory:?gb=1",
        "memory:/x",
        "file:relative",
        "file://host/folder",
        "file:///",
        "file:///tmp?mb=-1",
        "redis:",
        "redis://",
        "redis://host:port",
        "http://host",
        "redis://[::1",
    ],
)
def test_an_address_that_is_none_is_refused_with_what_to_write(given: str) -> None:
    with pytest.raises(
        SetupError, match=r"^ORPHEUS_CACHE=… cannot be used: write memory:, file:///FOLDER or redis"
    ):
        load_settings(cache=given)


@pytest.mark.parametrize("given", ["redis://host/0?unknown=1", "redis://host/0?socket_timeout=x"])
def test_an_option_that_redis_py_does_not_know_is_told_at_the_start(given: str) -> None:
    with pytest.raises(SetupError, match="cannot be used"):
        open_cache(given, SpeechMetrics())


def test_addresses_are_read_as_they_are_written() -> None:
    assert parse_cache("memory:").max_bytes == 256 * MB
    at = parse_cache("file:///var/cache/a%20b?mb=3")
    assert (at.kind, at.folder, at.max_bytes) == ("file", Path("/var/cache/a b"), 3 * MB)
    assert parse_cache("valkey://:p%40@h:1/2").url == "redis://:p%40@h:1/2"
    assert parse_cache("unix:///run/redis.sock?db=1").url.startswith("unix:")
    assert {"pa@ss-word", "pa%40ss-word"} <= {*load_settings(cache="redis://:pa%40ss-word@h").secrets}


async def test_a_full_disk_keeps_nothing_new_and_what_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, 10 * MB)
    metrics = SpeechMetrics()
    cache = ResponseCache(store, metrics)
    await make(cache, "old")
    await store._run(lambda: store._db.execute("PRAGMA max_page_count = 10"))
    await make(cache, "new", BODY * 10)
    assert "cannot write" in caplog.text
    assert "full" in caplog.text
    assert count(metrics, "cache_errors", work="write") == 1
    assert await cache.find("new") is None
    assert await cache.find("old")
    await cache.aclose()


async def test_before_a_disk_that_hangs_nothing_piles_up(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, MB)
    await store.put("key", BODY)
    hangs, goes_on = threading.Event(), threading.Event()
    hanging = asyncio.create_task(store._run(lambda: (hangs.set(), goes_on.wait())))
    await asyncio.to_thread(hangs.wait)
    hanging.cancel()
    await asyncio.wait([hanging])
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await store.put("key", BODY)
    assert store._thread._work_queue.empty()
    goes_on.set()
    await asyncio.to_thread(store._late.result)
    assert await store.get("key") == BODY
    await store.aclose()


async def test_a_redis_that_hangs_costs_one_short_wait_and_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "REST_S", 60.0)
    hanging = NoRedis(None)
    metrics = SpeechMetrics()
    cache = open_cache(hanging.url, metrics)
    cache._keeping._within_s = guard.READ_S
    started = time.monotonic()
    assert await asyncio.gather(*(cache.find(f"{number}") for number in range(20))) == [None] * 20
    assert time.monotonic() - started < 5  # 0.3 s, on a machine that has nothing else to do
    connections = hanging.connections
    for number in range(20):
        assert await cache.find(f"{number}") is None
        await make(cache, f"{number}")
    assert hanging.connections <= connections + 2  # the first write tried
    assert count(metrics, "cache_errors", work="read") == 40
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2  # of reading and of writing
    assert "no answer in time" in caplog.text
    assert "secret" not in caplog.text
    await cache.aclose()
    hanging.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-ERR no\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"+OK\r\n",
        b":5\r\n",
        b"*1000000000\r\n",
        b"$99999999999\r\nx",
        b"$x\r\n",
        b"\x00" * 1000,
        b"%1\r\n+a\r\n+b\r\n",
        b"$3\r\nabc\r\n",
    ],
)
async def test_a_server_that_is_no_redis_fails_no_request(answer: bytes) -> None:
    hostile = NoRedis(answer)
    metrics = SpeechMetrics()
    cache = open_cache(hostile.url, metrics)
    cache._reading._within_s = cache._keeping._within_s = 0.1  # or the test takes longer
    assert await cache.find("key") is None
    await make(cache, "key")
    await cache.aclose()
    hostile.close()


async def test_a_redis_that_comes_back_is_used_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "REST_S", 0.05)
    caplog.set_level(logging.INFO)
    port = free_port()
    metrics = SpeechMetrics()
    cache = open_cache(f"redis://127.0.0.1:{port}/0", metrics)
    assert await cache.find("key") is None
    await make(cache, "key")
    with running_redis(port=port):
        deadline = time.monotonic() + 20
        while await cache.find("key") is None:
            assert time.monotonic() < deadline
            await make(cache, "key")
            await asyncio.sleep(0.06)
        assert "the cache can write again" in caplog.text
        assert "maxmemory-policy allkeys-lru" in caplog.text  # this one has no bound
    await asyncio.sleep(0.06)
    assert await cache.find("key") is None
    await cache.aclose()


async def test_a_redis_that_tells_nothing_of_itself_keeps_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_redis("--rename-command", "INFO", "") as url:
        metrics = SpeechMetrics()
        cache = open_cache(url, metrics)
        await make(cache, "key")
        assert count(metrics, "cache_bytes", work="write") == len(BODY)
        assert not caplog.records
        await cache.aclose()


async def test_while_one_tries_again_the_others_do_not_wait() -> None:
    asked = asyncio.Event()

    class Hanging:
        name = "hanging"
        max_body_bytes = MB
        calls = 0

        async def get(self, key: str) -> bytes | None:
            self.calls += 1
            asked.set()
            await asyncio.Event().wait()
            return None

        async def aclose(self) -> None: ...

    store = Hanging()
    cache = ResponseCache(store, SpeechMetrics())  # type: ignore[arg-type]
    cache._reading._within_s = 0.05
    await cache.find("a")
    cache._reading._again_s = 0.0  # its rest is over
    asked.clear()
    trying = asyncio.create_task(cache.find("b"))
    await asked.wait()
    assert await cache.find("c") is None
    assert not trying.done()
    assert await trying is None
    assert store.calls == 2


async def test_a_redis_that_evicts_is_the_bound() -> None:
    with running_redis("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as url:
        cache = open_cache(url, SpeechMetrics())
        for number in range(60):
            await make(cache, f"{number}", BODY * 4)
        found = [bool(await cache.find(f"{number}")) for number in range(60)]
        assert found[-1]
        assert not all(found)
        await cache.aclose()


@pytest.mark.slow
def test_a_pair_that_is_started_again_answers_from_disk_without_tier_1(tmp_path: Path) -> None:
    body = {"input": "The boat drifted slowly down the river. " * 3, "voice": "tara", "seed": 7}
    answers: list[httpx.Response] = []
    for start in range(2):
        with running_pair(tmp_path, ORPHEUS_CACHE=f"file://{tmp_path}/cache?mb=10") as pair:
            before = httpx.get(f"{pair.llama_url}/health", trust_env=False).json()["tokens"]
            answers.append(httpx.post(f"{pair.url}/v1/audio/speech", json=body, timeout=60, trust_env=False))
            made = httpx.get(f"{pair.llama_url}/health", trust_env=False).json()["tokens"] - before
            assert (made > 100) == (start == 0)
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "hit"]
    assert answers[0].content == answers[1].content
    for name in ("content-type", "x-sample-rate", "x-channels", "x-input-chars"):
        assert answers[0].headers[name] == answers[1].headers[name]


@pytest.mark.slow
def test_a_cache_that_cannot_be_ends_the_start_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where, said in (
        (f"file://{tmp_path}/file/cache", "cannot hold a cache (Not a directory). Name a folder"),
        ("disk", "ORPHEUS_CACHE=… cannot be used: write memory:, file:///FOLDER or redis://HOST:6379/0"),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "orpheus", "speech", "--port", "0"],
            env=clean_environment(ORPHEUS_CACHE=where, ORPHEUS_LLAMA_ENDPOINT="http://127.0.0.1:9"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == SetupError.exit_code
        assert said in done.stderr
