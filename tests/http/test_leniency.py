"""Paths and HEAD requests as clients and monitors really send them, to the layer that both tiers share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import StreamingResponse
from websockets.sync.client import connect

from orpheus.http.leniency import Leniency, is_head, served_path
from tests.support.live import served


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("/v1//audio/speech", "/v1/audio/speech"),
        ("//v1/audio/speech", "/v1/audio/speech"),
        ("///v1///audio//speech//", "/v1/audio/speech"),
        ("/v1/audio/speech/", "/v1/audio/speech"),
        ("/v1/v1/audio/speech", "/v1/audio/speech"),
        ("/v1//v1/v1/audio/speech", "/v1/audio/speech"),
        ("/audio/speech", "/v1/audio/speech"),
        ("//audio//speech/", "/v1/audio/speech"),
        ("/models", "/v1/models"),
        ("/models/", "/v1/models"),
        ("//models/tts-1", "/v1/models/tts-1"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1//completions", "/v1/completions"),
        ("/completions", "/v1/completions"),
        ("/v1/completions/", "/v1/completions"),
        ("//ws", "/ws"),
        ("/ws/", "/ws"),
        ("//health//", "/health"),
        ("/", "/"),
        ("//", "/"),
        ("/v1/", "/v1/"),
        ("/v1/v1/", "/v1/"),
        ("/v1/audio/speech", "/v1/audio/speech"),
        ("/V1/audio/speech", "/V1/audio/speech"),
        ("/v1/audio/v1/speech", "/v1/audio/v1/speech"),
        ("/page/../v1/audio/speech", "/page/../v1/audio/speech"),
        ("/modelsx", "/modelsx"),
    ],
)
def test_a_path_put_together_carelessly_is_the_path_that_is_meant(sent: str, meant: str) -> None:
    assert served_path(sent) == meant


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = FastAPI()
    app.add_middleware(Leniency)

    @app.get("/v1/models")
    async def models() -> dict[str, str]:
        return {"id": "a"}

    @app.get("/v1/audio/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Iterator[bytes]:  # type: ignore[misc]
            yield b"a"
            yield b"b"

        return StreamingResponse(parts(), media_type="audio/pcm")  # type: ignore[arg-type]

    @app.post("/v1/audio/speech")
    async def speech() -> None: ...

    @app.websocket("/ws")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.scope["path"])
        await socket.close()

    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/audio/stream", "/docs", "/openapi.json", "/v1/nothing", "/v1/audio/speech"]
)
def test_head_is_answered_as_get_without_the_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.content == b""
    assert head.status_code == get.status_code
    own = ("date", "transfer-encoding")  # of the answer's way through the connection
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in get.headers.items() if k not in own
    }
    assert client.get("/v1/models").json() == {"id": "a"}  # on the same connection


def test_a_websocket_is_found_under_a_careless_path(client: httpx.Client) -> None:
    url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    for path in ("//ws", "/ws/", "///ws"):
        with connect(url + path, proxy=None) as socket:
            assert socket.recv(5) == "/ws"


def test_only_a_head_request_is_taken_for_one() -> None:
    assert is_head({"method": "GET", "orpheus.head": True})
    assert not is_head({"method": "GET"})
