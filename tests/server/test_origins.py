"""Pages of other sites cannot make a server speak: over HTTP, over each WebSocket, with and without keys."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from tests.support.speech import PATH, ask, error_of
from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]
SOCKETS = ("/ws", "/v1/audio/speech/stream/ws", "/v1/audio/speech/stream", "/api/tts_streaming")


def socket_url(client: httpx.Client, path: str) -> str:
    return str(client.base_url.join(path)).replace("http", "ws", 1)


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_a_page_of_another_site_gets_no_socket(speech: Start, path: str, origin: str) -> None:
    for options in ({}, {"api_keys": "k", "unmute_open": True}):
        url = socket_url(speech(keep=True, **options), path) + "?api_key=k"
        with (
            pytest.raises(websockets.InvalidStatus) as refused,
            connect(url, proxy=None, origin=origin),  # type: ignore[arg-type]
        ):
            pass
        assert refused.value.response.status_code == 403
        assert "ORPHEUS_CORS_ORIGINS" in (refused.value.response.body or b"").decode()


@pytest.mark.parametrize("path", SOCKETS)
def test_our_own_page_listed_pages_and_programs_get_one(speech: Start, path: str) -> None:
    client = speech(keep=True, cors_origins="https://a.example, https://b.example")
    own = str(client.base_url).rstrip("/")
    for origin in (None, own, "https://a.example", "https://b.example"):
        with connect(socket_url(client, path), proxy=None, origin=origin):  # type: ignore[arg-type]
            pass
    with connect(
        socket_url(speech(keep=True, cors_origins="*"), path),
        proxy=None,
        origin="https://evil.example",  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json", None]
)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/stream", "/audio/speech", "/v1/v1/audio/speech"])
def test_a_page_of_another_site_cannot_make_it_speak_by_a_simple_request(
    speech: Start, upstream: Upstream, kind: str | None, path: str
) -> None:
    """Without a preflight; a Blob without a type is sent without any Content-Type, which is read as JSON."""
    headers = {"Origin": "https://evil.example"} | ({"Content-Type": kind} if kind else {})
    response = speech().post(path, content=json.dumps(ask()), headers=headers)
    assert response.status_code == 403
    assert error_of(response)["code"] == "origin_not_allowed"
    assert upstream.requests == []


def test_a_listed_page_can_read_why_it_was_refused(speech: Start) -> None:
    client = speech(keep=True, cors_origins="https://a.example", api_keys="k")
    response = client.post(PATH, json=ask(), headers={"Origin": "https://a.example"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "https://a.example"
