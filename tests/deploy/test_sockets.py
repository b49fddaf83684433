"""WebSockets where the server in front knows no answer to a handshake but yes and no, and no limit of ours."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from orpheus.deploy.sockets import EXTENSION, SocketRules
from orpheus.errors import AtCapacity, BadRequest, EngineError, NotReady, OrpheusError, Unauthorized
from orpheus.http.responses import error_response

pytestmark = pytest.mark.anyio


async def sent(error: OrpheusError, **scope: Any) -> list[dict[str, Any]]:
    """What the server gets of a socket that is refused with this error."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(error)(scope, receive, send)

    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await SocketRules(refuse)({"type": "websocket", **scope}, receive, send)
    return messages


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthorized("An API key is required."), 1008),
        (BadRequest("There is no such voice."), 1008),
        (AtCapacity("The agent is full.", retry_after_s=3), 1013),
        (NotReady("The agent is loading."), 1013),
        (EngineError("It broke."), 1011),
    ],
)
@pytest.mark.parametrize("scope", [{}, {"extensions": {}}, {"extensions": None}])
async def test_a_refusal_is_a_close_frame_with_its_sentence(
    error: OrpheusError, code: int, scope: dict[str, Any]
) -> None:
    accepted, closed = await sent(error, **scope)
    assert accepted == {"type": "websocket.accept"}
    assert closed == {"type": "websocket.close", "code": code, "reason": str(error)}


@pytest.mark.parametrize("offered", [["realtime", "openai-insecure-api-key.x"], ["openai-beta.realtime-v1"]])
async def test_a_browser_that_offers_subprotocols_gets_one_and_so_the_sentence(offered: list[str]) -> None:
    accepted, closed = await sent(Unauthorized("An API key is required."), subprotocols=offered)
    assert accepted == {"type": "websocket.accept", "subprotocol": offered[0]}
    assert closed["code"] == 1008


async def test_a_long_sentence_is_cut_between_characters_to_what_a_close_frame_holds() -> None:
    _, closed = await sent(BadRequest("é" * 100))
    assert closed["reason"] == "é" * 61


async def test_a_server_that_can_answer_a_handshake_does() -> None:
    messages = await sent(Unauthorized("An API key is required."), extensions={EXTENSION: {}})
    assert [message["type"] for message in messages] == [f"{EXTENSION}.start", f"{EXTENSION}.body"]
    assert messages[0]["status"] == 401


async def test_everything_else_passes() -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        raise AssertionError

    given = [
        {"type": "websocket.accept"},
        {"type": "websocket.send", "text": "hello"},
        {"type": "websocket.close"},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in given:
            await send(message)

    await SocketRules(app)({"type": "websocket"}, receive, send)
    assert messages == given


@pytest.mark.parametrize(
    ("message", "fits"),
    [
        ({"text": "a" * (1 << 20)}, True),
        ({"text": "a" * ((1 << 20) + 1)}, False),
        ({"text": "é" * (1 << 19)}, True),
        ({"text": "é" * ((1 << 19) + 1)}, False),
        ({"bytes": bytes(1 << 20)}, True),
        ({"bytes": bytes((1 << 20) + 1)}, False),
        ({"bytes": None, "text": "hello"}, True),
    ],
)
async def test_a_message_has_at_most_a_mebibyte_as_everywhere(message: dict[str, Any], fits: bool) -> None:
    messages: list[Any] = []
    given = {"type": "websocket.receive", **message}

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return given

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive() == given) == fits

    await SocketRules(app)({"type": "websocket"}, receive, send)
    assert [message["code"] for message in messages] == ([] if fits else [1009])
