"""Bodies over the limit, and which pages may call from a browser."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from orpheus.http.body_limit import MAX_BODY_BYTES
from tests.support.speech import PATH, ask, error_of
from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]
LIMIT = MAX_BODY_BYTES


def in_parts(content: bytes) -> Iterator[bytes]:
    """Chunked: no Content-Length announces the size."""
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413(speech: Start, upstream: Upstream, chunked: bool) -> None:
    client = speech()
    content = json.dumps(ask(note="x" * LIMIT)).encode()
    response = client.post(PATH, content=in_parts(content) if chunked else content)
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"
    assert response.headers["x-request-id"]
    assert upstream.requests == []
    assert client.post(PATH, json=ask()).status_code == 200


def test_an_endless_body_is_rejected_while_it_is_being_sent(speech: Start) -> None:
    client = speech()
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 65536
            yield b"x" * 65536

    # A client that keeps sending may find the connection closed before it reads the response.
    with contextlib.suppress(httpx.TransportError):
        assert client.post(PATH, content=endless()).status_code == 413
    assert sent < 1 << 28


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_within_the_limit_arrives_whole(speech: Start, upstream: Upstream, chunked: bool) -> None:
    content = json.dumps(ask(note="x" * (LIMIT - 200))).encode()
    headers = {"content-type": "application/json"}
    body = in_parts(content) if chunked else content
    assert speech().post(PATH, content=body, headers=headers).status_code == 200
    assert "Hello there." in upstream.requests[0]["prompt"]


def test_only_pages_from_the_configured_origins_may_call(speech: Start) -> None:
    client = speech(cors_origins="https://a.example, https://b.example", api_keys="k")
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, status in (("https://b.example", 200), ("https://evil.example", 400)):
        response = client.options(PATH, headers={"Origin": origin, **preflight})
        assert response.status_code == status
        assert (response.headers.get("access-control-allow-origin") == origin) == (status == 200)
    refused = client.post(PATH, json=ask(), headers={"Origin": "https://a.example"})
    assert refused.status_code == 401  # readable, so that the page can explain it
    assert refused.headers["access-control-allow-origin"] == "https://a.example"
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


def test_without_configured_origins_no_page_may_call(speech: Start) -> None:
    response = speech().post(PATH, json=ask(), headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers


def test_audio_is_never_compressed(speech: Start) -> None:
    response = speech().post(PATH, json=ask(response_format="pcm"), headers={"Accept-Encoding": "gzip, br"})
    assert "content-encoding" not in response.headers
