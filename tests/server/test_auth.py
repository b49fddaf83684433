"""ApiKeyAuth: which routes need a key, where a request may carry it, and that no key reaches the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from tests.support.speech import PATH, SAMPLES, ask, error_of
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
KEYS = "first-key, second-key"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"x-api-key": "second-key"},
        {"kyutai-api-key": "first-key"},
        {"Authorization": "Bearer wk-abc.ws-def", "x-api-key": "first-key"},
    ],
)
def test_a_key_is_accepted_wherever_clients_put_it(speech: Start, headers: dict[str, str]) -> None:
    response = speech(keep=True, api_keys=KEYS).post(PATH, json=ask(response_format="pcm"), headers=headers)
    assert response.status_code == 200
    assert len(response.content) == SAMPLES * 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer first"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "Bearer first-key, second-key"},
        {"Authorization": "Bearer wk-abc.ws-def"},
        {"x-api-key": ""},
    ],
)
def test_anything_else_is_a_401_in_openai_format(
    speech: Start, upstream: Upstream, headers: dict[str, str]
) -> None:
    client = speech(keep=True, api_keys=KEYS)
    for path in (PATH, f"{PATH}/stream", "/audio/speech", "/v1/v1/audio/speech"):
        response = client.post(path, json=ask(), headers=headers)
        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_api_key"
        assert response.headers["x-request-id"]
    assert upstream.requests == []


def test_only_websockets_may_carry_the_key_in_the_query(speech: Start) -> None:
    assert speech(keep=True, api_keys=KEYS).post(f"{PATH}?api_key=first-key", json=ask()).status_code == 401


def test_the_catalog_and_health_need_no_key(speech: Start) -> None:
    client = speech(keep=True, api_keys=KEYS)
    for path in ("/v1/models", "/v1/models/tts-1", "/v1/audio/voices", "/audio/models", "/v1/v1/models"):
        assert client.get(path).status_code == 200
    for path in ("/health", "/ready", "/live", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_without_configured_keys_any_bearer_token_is_accepted(speech: Start) -> None:
    assert speech().post(PATH, json=ask(), headers={"Authorization": "Bearer x"}).status_code == 200


def socket_url(client: httpx.Client, query: str) -> str:
    base = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    return f"{base}/v1/audio/speech/stream/ws{query}"


def test_a_websocket_without_a_key_is_rejected_before_it_is_accepted(speech: Start) -> None:
    client = speech(keep=True, api_keys=KEYS)
    for query in ("", "?api_key=wrong"):
        with (
            pytest.raises(websockets.InvalidStatus) as refused,
            connect(socket_url(client, query), proxy=None),
        ):
            pass
        assert refused.value.response.status_code == 401
        assert b"invalid_api_key" in (refused.value.response.body or b"")
    with connect(socket_url(client, "?voice=tara&api_key=second-key"), proxy=None) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) == SAMPLES * 2
    with connect(
        socket_url(client, ""), proxy=None, additional_headers={"kyutai-api-key": "first-key"}
    ) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) == SAMPLES * 2


def test_one_key_cannot_use_up_the_capacity(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech(keep=True, api_keys=KEYS, max_requests_per_key=1)
    first, second = ({"x-api-key": key} for key in ("first-key", "second-key"))
    with client.stream("POST", PATH, json=ask(), headers=first) as active:
        chunks = active.iter_raw()
        next(chunks)
        refused = client.post(PATH, json=ask(), headers=first)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert error_of(refused)["code"] == "rate_limit_exceeded"
        assert client.get("/v1/models", headers=first).status_code == 200
        with client.stream("POST", PATH, json=ask(), headers=second) as other:
            assert other.status_code == 200
            next(other.iter_raw())
        next(chunks)
    upstream.reset()
    # Once the server has noticed that the client left.
    eventually(lambda: client.post(PATH, json=ask(), headers=first).status_code == 200)


def test_no_key_is_ever_logged(speech: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="orpheus")
    client = speech(keep=True, api_keys=KEYS)
    client.post(PATH, json=ask(), headers={"x-api-key": "first-key"})
    client.post(PATH, json=ask(), headers={"x-api-key": "a-wrong-key"})
    with connect(socket_url(client, "?api_key=first-key"), proxy=None) as socket:
        socket.send("Hello there.")
        assert list(socket)
    logged = "".join(
        f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name[:7] == "orpheus"
    )
    assert "route" in logged
    for secret in ("first-key", "second-key", "a-wrong-key"):
        assert secret not in logged
