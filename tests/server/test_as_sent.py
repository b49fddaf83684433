"""HEAD requests, paths and WebSocket settings as monitors and clients really send them, to all of tier 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from tests.support.speech import PATH, SAMPLES, ask
from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]
STREAM = f"{PATH}/stream"


def url_of(client: httpx.Client, path: str, scheme: str = "http") -> str:
    """Not through httpx, which reads `//ws` as the name of a host."""
    return str(client.base_url).rstrip("/").replace("http", scheme, 1) + path


@pytest.mark.parametrize("keys", [None, "secret"])
def test_every_get_route_answers_head(speech: Start, keys: str | None) -> None:
    client = speech(keep=True, api_keys=keys) if keys else speech()
    document = client.get("/openapi.json").json()
    paths = [path for path, methods in document["paths"].items() if "get" in methods and path != PATH]
    paths = [path.replace("{model_id}", "tts-1") for path in paths]
    assert {"/live", "/ready", "/health", "/metrics", "/v1/models"} <= set(paths)
    for path in [
        *paths,
        "/",
        "/page/app.js",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/v1/models/none",
        "/v1/none",
    ]:
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != "/metrics":  # a metric may have got another digit meanwhile
            assert head.headers["content-length"] == str(len(get.content))
        assert head.headers["x-request-id"]
    assert client.head(STREAM).status_code == client.get(STREAM).status_code


def test_head_of_a_server_that_is_not_ready_says_so(speech: Start, upstream: Upstream) -> None:
    upstream.health = 503
    client = speech()
    assert client.head("/ready").status_code == client.head("/health").status_code == 503
    assert client.head("/live").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1//audio/speech",
        "//v1/audio/speech",
        "/v1/audio/speech/",
        "//audio//speech",
        "/v1/v1//audio/speech",
    ],
)
def test_speech_is_served_under_a_path_put_together_carelessly(speech: Start, path: str) -> None:
    client = speech()
    response = client.post(url_of(client, path), json=ask(response_format="pcm"))
    assert (response.status_code, len(response.content)) == (200, SAMPLES * 2)
    assert client.get(url_of(client, "//v1//models/")).json() == client.get("/v1/models").json()


@pytest.mark.parametrize(
    "path", ["//ws", "/ws/", f"/{STREAM}/ws", "/audio/speech//stream/ws", f"/v1{STREAM}/ws/"]
)
def test_a_websocket_is_served_there_too_and_asks_for_the_key(speech: Start, path: str) -> None:
    with connect(url_of(speech(), path, "ws"), proxy=None) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) == SAMPLES * 2
    with (
        pytest.raises(websockets.InvalidStatus) as refused,
        connect(url_of(speech(keep=True, api_keys="secret"), path, "ws"), proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize(
    "query", ["voice=&response_format=", "response_format=PCM&voice=Tara", "speed=&lead_s="]
)
def test_a_plain_websocket_takes_an_empty_setting_for_none(
    speech: Start, upstream: Upstream, query: str
) -> None:
    with connect(url_of(speech(), f"/ws?{query}", "ws"), proxy=None) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) == SAMPLES * 2
    assert "tara: Hello there." in upstream.requests[0]["prompt"]


@pytest.mark.parametrize(
    "config",
    [
        {"response_format": "PCM", "voice": "", "seed": -1, "speed": ""},
        {"response_format": " pcm16", "voice": {"id": None}, "max_tokens": -1, "split_granularity": "NONE"},
        {
            "response_format": "audio/pcm",
            "voice": None,
            "seed": "-1",
            "split_granularity": "",
            "stream_audio": "true",
        },
    ],
)
def test_a_session_is_configured_as_leniently_as_a_request(
    speech: Start, upstream: Upstream, config: dict[str, Any]
) -> None:
    size = 0
    with connect(url_of(speech(), STREAM, "ws"), proxy=None) as socket:
        for message in (
            {"type": "session.config", "stream_audio": True, **config},
            {"type": "input.text", "text": "Hello there."},
            {"type": "input.done"},
        ):
            socket.send(json.dumps(message))
        while True:
            received = socket.recv(10)
            if isinstance(received, bytes):
                size += len(received)
                continue
            event = json.loads(received)
            assert event["type"] != "error", event
            assert event.get("format", "pcm") == "pcm"
            if event["type"] == "session.done":
                break
    assert size == SAMPLES * 2
    assert "tara: Hello there." in upstream.requests[0]["prompt"]
