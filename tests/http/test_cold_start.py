"""A tier 1 that sleeps, as Modal's proxies show it: 503 and 502, refused connections, a redirect to the answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orpheus.errors import NotReady, UpstreamError
from orpheus.http import cold_start
from orpheus.logs import request_id
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import VOICES
from tests.support.live import free_port, served
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
PIECE = Generation(VOICES["tara"], "Hello.", Sampling(seed=7), 700)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "POLL_S", 0.02)


@asynccontextmanager
async def tokens(url: str, cold_wait_s: float) -> AsyncIterator[HttpTokenSource]:
    source = HttpTokenSource(load_settings(llama_endpoint=url, cold_wait_s=cold_wait_s))
    try:
        yield source
    finally:
        await source.aclose()


async def count(url: str, cold_wait_s: float = 20) -> int:
    async with tokens(url, cold_wait_s) as source:
        return sum([len(chunk.numbers) async for chunk in source.generate(PIECE)])


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, str]]:
    behaviour = Upstream()
    with served(behaviour.app) as url:
        yield behaviour, url


def wake_later(behaviour: Upstream) -> None:
    """Once it was asked in vain."""

    def wake() -> None:
        eventually(lambda: behaviour.requests)
        behaviour.answer = None

    threading.Thread(target=wake).start()


@pytest.mark.parametrize("status", [502, 503])
async def test_a_sleeping_tier_1_is_waited_for(upstream: tuple[Upstream, str], status: int) -> None:
    behaviour, url = upstream
    behaviour.answer = Response("no container", status)
    wake_later(behaviour)
    assert await count(url) == 42
    assert len(behaviour.requests) > 1
    assert {request["prompt"] for request in behaviour.requests} == {behaviour.requests[0]["prompt"]}


async def test_a_refused_connection_is_retried() -> None:
    port = free_port()
    behaviour = Upstream()
    asked = asyncio.create_task(count(f"http://127.0.0.1:{port}"))
    await asyncio.sleep(0.2)
    with served(behaviour.app, port) as url:
        assert str(port) in url
        assert await asked == 42


async def test_the_wait_ends_with_the_last_error(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.answer = Response('{"error": {"message": "no container"}}', 503)
    started = time.monotonic()
    with pytest.raises(NotReady, match="no container"):
        await count(url, 0.3)
    assert 0.3 <= time.monotonic() - started < 5
    with pytest.raises(NotReady, match="cannot be reached"):
        await count(f"http://127.0.0.1:{free_port()}", 0.3)


async def test_by_default_there_is_no_wait(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.answer = Response("no container", 503)
    with pytest.raises(NotReady):
        await count(url, 0)
    assert len(behaviour.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 401])
async def test_any_other_response_is_not_retried(upstream: tuple[Upstream, str], status: int) -> None:
    behaviour, url = upstream
    behaviour.answer = Response("", status)
    with pytest.raises(Exception, match=r".+"):
        await count(url)
    assert len(behaviour.requests) == 1


async def test_a_request_is_never_repeated_once_its_response_has_begun(
    upstream: tuple[Upstream, str],
) -> None:
    behaviour, url = upstream
    behaviour.break_after = 1
    with pytest.raises(UpstreamError, match="broke off"):
        await count(url)
    assert len(behaviour.requests) == 1


async def test_leaving_ends_the_wait(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.answer = Response("", 503)
    asked = asyncio.create_task(count(url))
    await asyncio.sleep(0.1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.sleep(0.1)  # one may have been on its way
    seen = len(behaviour.requests)
    await asyncio.sleep(0.2)
    assert len(behaviour.requests) == seen


async def test_a_redirect_to_the_answer_is_followed_on_the_same_origin_only(
    upstream: tuple[Upstream, str],
) -> None:
    behaviour, url = upstream
    elsewhere: list[str] = []

    async def redirect(request: Request) -> Response:
        return RedirectResponse(target[0], 303)

    async def result(request: Request) -> Response:
        return await behaviour._complete(request) if request.method == "POST" else Response(await _whole(url))

    async def _whole(url: str) -> bytes:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.post(f"{url}/v1/completions", json={})).content

    async def stranger(request: Request) -> Response:
        elsewhere.append(request.headers.get("modal-key", ""))
        return Response()

    app = Starlette(
        routes=[
            Route("/v1/completions", redirect, methods=["POST"]),
            Route("/result", result),
            Route("/stranger", stranger),
        ]
    )
    with served(app) as front:
        target = [f"{front}/result"]
        assert await count(front) == 42
        with served(app) as other_port:
            for stranger_url in (
                f"{front.replace('127.0.0.1', 'localhost')}/stranger",
                f"{other_port}/stranger",
                f"{front.replace('http:', 'https:')}/stranger",
                f"//{other_port.removeprefix('http://')}/stranger",
                f"{front.replace('://', '://user@')}1/stranger",
            ):
                target = [stranger_url]
                with pytest.raises(UpstreamError, match=r"303|broke off"):
                    await count(front)
    assert elsewhere == []


async def test_a_circle_of_redirects_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "MAX_REDIRECTS", 3)
    asked: list[str] = []

    async def round_and_round(request: Request) -> Response:
        asked.append(request.method)
        return RedirectResponse("/v1/completions", 303)

    routes = [Route("/v1/completions", round_and_round, methods=["GET", "POST"])]
    with served(Starlette(routes=routes)) as url, pytest.raises(UpstreamError, match="303"):
        await count(url)
    assert asked == ["POST", "GET", "GET", "GET"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example/x", "https://A.example:443/y?z", True),
        ("http://a.example:80", "http://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:444", False),
        ("https://a.example", "https://b.a.example", False),
        ("http://[::1]:80", "http://[::1]", True),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert cold_start.same_origin(httpx.URL(one), httpx.URL(other)) == same


async def test_the_proxy_token_and_the_request_id_are_sent(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    settings = load_settings(llama_endpoint=url, proxy_key="wk-1", proxy_secret="ws-1", llama_api_key="k")
    source = HttpTokenSource(settings)
    token = request_id.set("req-7")
    try:
        async for _ in source.generate(PIECE):
            pass
        await source.check()
    finally:
        request_id.reset(token)
        await source.aclose()
    headers = behaviour.requests[0]["headers"]
    assert (headers["modal-key"], headers["modal-secret"]) == ("wk-1", "ws-1")
    assert headers["authorization"] == "Bearer k"
    assert headers["x-request-id"] == "req-7"
