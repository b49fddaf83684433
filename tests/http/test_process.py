from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from benchmarks.faults import hostile
from orpheus import embedded
from orpheus.errors import EngineError, OrpheusError, SetupError
from orpheus.http.process import LEFT_AT_ONCE, Process, listen, url_of
from orpheus.llama import backend
from orpheus.llama.engine import Engine
from orpheus.llama.server import create_app
from orpheus.server.app import create_app as speech
from orpheus.server.service import SpeechService
from tests.support.llama import settings


@pytest.mark.parametrize("host", ["no such host", "a" * 64, "a..b", "é" * 80, "[::1]", "http://127.0.0.1"])
def test_a_name_that_is_no_address_is_one_sentence(host: str) -> None:
    with pytest.raises(SetupError, match=r"is not an address of this machine.*ORPHEUS_HOST"):
        listen(host, 0, "--port")


def tier_1(load: Callable[[Process], Engine]) -> Callable[[Process], FastAPI]:
    return lambda process: create_app(settings(), process.ending_on_failure(lambda: load(process)))


def both_tiers(process: Process) -> FastAPI:
    return speech(SpeechService.in_process(settings(), process.ending_on_failure, process.end))


def served_until_it_ends(
    make: Callable[[Process], FastAPI], then: Callable[[httpx.Client], None] = lambda _: None
) -> OrpheusError:
    """What ends a process that serves this application; `then` is a client of it."""
    bound = listen("127.0.0.1", 0, "")
    url = url_of("127.0.0.1", bound.getsockname()[1])
    process = Process(settings())
    ended: list[OrpheusError] = []

    def serve() -> None:
        try:
            process.serve(make(process), bound)
        except OrpheusError as error:
            ended.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        then(client)
    thread.join(20)
    assert ended, "it is still up, or ended as if all were well"
    return ended[0]


@pytest.mark.parametrize(
    "error", [SetupError("no memory"), RuntimeError("no memory"), MemoryError("no memory")]
)
def test_a_failed_load_ends_the_process(error: Exception) -> None:
    def fail(_: Process) -> Engine:
        raise error

    ended = served_until_it_ends(tier_1(fail))
    assert "no memory" in str(ended)
    assert ended.exit_code == (2 if isinstance(error, SetupError) else 1)


def engine_of(process: Process) -> Engine:
    return Engine.load(embedded.MODEL, settings(), on_death=process.end)


@pytest.mark.parametrize(
    ("make", "route", "body"),
    [
        (tier_1(engine_of), "/v1/completions", {"prompt": [1]}),
        (both_tiers, "/v1/audio/speech", {"input": "Hello."}),
    ],
    ids=["tier 1", "both tiers"],
)
def test_an_engine_that_dies_later_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Process], FastAPI],
    route: str,
    body: dict[str, Any],
) -> None:
    made: list[Any] = []
    context = backend.Context

    def once(*arguments: Any) -> backend.Context:
        if made:
            raise SetupError("llama.cpp could not make a context.")
        made.append(context(*arguments))
        return made[0]  # type: ignore[no-any-return]

    def ask(client: httpx.Client) -> None:
        deadline = time.monotonic() + 20
        while client.get("/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        made[0].decode = lambda rows: 1 / 0
        assert client.post(route, json=body).status_code == 500

    monkeypatch.setattr(backend, "Context", once)
    ended = served_until_it_ends(make, ask)
    assert "could not make a context" in str(ended)
    assert not isinstance(ended, EngineError)


def test_clients_that_have_reset_their_connections_are_passed_over() -> None:
    with listen("127.0.0.1", 0, "") as bound:
        bound.setblocking(False)
        url = url_of("127.0.0.1", bound.getsockname()[1])
        for _ in range(LEFT_AT_ONCE + 3):
            left = hostile.opened(url)
            left.sendall(b"GET / HTTP/1.1")
            hostile.reset(left)
        with hostile.opened(url) as stays:
            with pytest.raises(BlockingIOError):  # so many at a time
                bound.accept()
            accepted, address = bound.accept()
            assert address == stays.getsockname()
            accepted.close()


def test_a_client_that_has_only_sent_its_last_byte_is_accepted() -> None:
    with listen("127.0.0.1", 0, "") as bound, hostile.opened(url_of(*bound.getsockname())) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        accepted, _ = bound.accept()
        assert accepted.recv(100).startswith(b"GET")
        accepted.close()
