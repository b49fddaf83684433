"""Bodies that are too long, and who may call from a browser."""

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
    """Sent chunked: no Content-Length says how long it will be."""
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


def test_an_endless_body_is_answered_while_it_still_comes(speech: Start) -> None:
    client = speech()
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 65536
            yield b"x" * 65536

    # A client that would not stop may find the connection closed before it reads the answer.
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


def test_pages_of_the_origins_named_may_call_and_no_others(speech: Start) -> None:
    client = speech(cors_origins="https://a.example, https://b.example", api_keys="k")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, status in (("https://b.example", 200), ("https://evil.example", 400)):
        before = client.options(PATH, headers={"Origin": origin, **asked})
        assert before.status_code == status
        assert (before.headers.get("access-control-allow-origin") == origin) == (status == 200)
    refused = client.post(PATH, json=ask(), headers={"Origin": "https://a.example"})
    assert refused.status_code == 401  # and readable, so that the page can say why
    assert refused.headers["access-control-allow-origin"] == "https://a.example"
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


def test_without_the_setting_no_page_may(speech: Start) -> None:
    response = speech().post(PATH, json=ask(), headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers


def test_audio_is_never_compressed(speech: Start) -> None:
    response = speech().post(PATH, json=ask(response_format="pcm"), headers={"Accept-Encoding": "gzip, br"})
    assert "content-encoding" not in response.headers
