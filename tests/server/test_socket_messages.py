"""Malformed messages on every socket: the protocol's own error in one sentence, whatever was sent."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from orpheus.http.body_limit import MAX_JSON_PARTS
from orpheus.server.sockets.connection import Connection
from orpheus.server.sockets.messages import MAX_KEYS, read_json, read_msgpack

Start = Callable[..., httpx.Client]
KEYS = ("type", "text")
# Values of a wrong kind, as JSON.
WRONG = [
    "5", "-1.5", "1e999", "NaN", "true", "null", "[]", '["input.text"]', "{}", '{"type": "text"}', '"\\ud83d"', '""',
    "9" * 4000, "9" * 5000, "[" * 900 + "]" * 900, json.dumps("x" * 100_000), json.dumps(["x"] * 50_000),
]  # fmt: skip
FRAMES = {
    "nothing": b"",
    "not msgpack": b"\xc1",
    "a number": msgpack.packb(5),
    "an array": msgpack.packb(["type", "Text"]),
    "cut off": msgpack.packb({"type": "Text", "text": "Hello."})[:-2],
    "more than one": msgpack.packb({"type": "Text", "text": "Hello."}) * 2,
    "no type": msgpack.packb({"text": "Hello."}),
    "another type": msgpack.packb({"type": "Shout"}),
    "a type of a wrong kind": msgpack.packb({"type": ["Text"], "text": "Hello."}),
    "a text of a wrong kind": msgpack.packb({"type": "Text", "text": 5}),
    "a text of bytes": b"\x82\xa4type\xa4Text\xa4text\xc4\x02hi",
    "a text that is not UTF-8": b"\x82\xa4type\xa4Text\xa4text\xa2\xff\xfe",
    "an extension": b"\x82\xa4type\xd4\x01\x00\xa4text\xa2hi",
    "a time": b"\x82\xa4type\xd6\xff\x00\x00\x00\x00\xa4text\xa2hi",
    "four billion keys": b"\xdf\xff\xff\xff\xff",
    "four billion items": b"\x82\xa4type\xdd\xff\xff\xff\xff",
    "a megabyte of arrays": b"\x81\xa4type\xdd\x00\x0f\x00\x00" + b"\x90" * 0xF0000,
    "arrays in arrays": b"\x81\xa4type" + b"\x91" * 100_000,
    "many keys": b"\xde\xff\xff" + b"\x01\xc0" * 0xFFFF,
}


@pytest.mark.anyio
async def test_a_message_that_comes_as_the_time_for_it_is_over_is_not_lost() -> None:
    class Socket:
        def __init__(self) -> None:
            self.scope: dict[str, Any] = {}
            self.waiting = ["hello"]

        async def receive(self) -> dict[str, Any]:
            return {"type": "websocket.receive", "text": self.waiting.pop()}

    connection = Connection(Socket())  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await connection.receive()
    assert await connection.receive() == "hello"


def open_socket(client: httpx.Client, path: str) -> ClientConnection:
    return connect(str(client.base_url).replace("http", "ws", 1).rstrip("/") + path, proxy=None)


@pytest.fixture
def no_traceback(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Fails the test if something is logged with a traceback."""
    caplog.set_level(logging.WARNING)
    yield caplog
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.usefixtures("no_traceback")
@pytest.mark.parametrize(
    "kind", ["type", "text", "voice", "speed", "seed", "sample_rate", "stream_audio", "lead_s"]
)
def test_a_session_reports_each_message_of_a_wrong_kind_and_goes_on(speech: Start, kind: str) -> None:
    with open_socket(speech(), "/v1/audio/speech/stream") as socket:
        socket.send('{"type": "session.config", "response_format": "pcm", "stream_audio": true, "lead_s": 0}')
        for value in WRONG:
            if kind == "type":
                socket.send(f'{{"type": {value}}}')
            elif kind == "text":
                socket.send(f'{{"type": "input.text", "text": {value}}}')
            else:
                socket.send(f'{{"type": "session.config", "{kind}": {value}}}')
        socket.send('{"type": "input.cancel"}')
        while True:
            message = socket.recv(15)
            assert isinstance(message, str)
            event = json.loads(message)
            if event["type"] == "audio.cancelled":
                break
            assert event["type"] == "error"
            assert 0 < len(event["message"]) < 400


@pytest.mark.usefixtures("no_traceback")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key in ("type", "text")
        for value in WRONG
        if key == "type" or value not in ('""', '"\\ud83d"', json.dumps("x" * 100_000))  # which are text
    ],
)
def test_the_plain_socket_closes_with_1008_on_a_value_of_a_wrong_kind(
    speech: Start, key: str, value: str
) -> None:
    message = {"type": '"text"', "text": '"Hello."'} | {key: value}
    with open_socket(speech(), "/ws") as socket:
        socket.send("{" + ", ".join(f'"{name}": {given}' for name, given in message.items()) + "}")
        with pytest.raises(websockets.ConnectionClosedError) as caught:
            socket.recv(15)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008
    assert caught.value.rcvd.reason


@pytest.mark.usefixtures("no_traceback")
@pytest.mark.parametrize("voice", ['"\\ud83d"', json.dumps("v" * 100_000), '"\\u0000"'])
def test_the_plain_socket_refuses_any_voice_that_is_none(speech: Start, voice: str) -> None:
    with open_socket(speech(), "/ws?events=json") as socket:
        socket.send(f'{{"type": "text", "text": "Hello.", "voice": {voice}}}')
        error = json.loads(socket.recv(15))
        assert error["code"] == "voice_not_found"
        assert len(error["message"]) < 500
        with pytest.raises(websockets.ConnectionClosedError):
            socket.recv(15)


@pytest.mark.usefixtures("no_traceback")
@pytest.mark.parametrize("frame", FRAMES)
def test_the_plain_socket_closes_with_1008_on_a_malformed_frame(speech: Start, frame: str) -> None:
    with open_socket(speech(), "/ws") as socket:
        socket.send(FRAMES[frame])
        with pytest.raises(websockets.ConnectionClosedError) as caught:
            socket.recv(15)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008
    assert "type Text" in caught.value.rcvd.reason


@pytest.mark.usefixtures("no_traceback")
@pytest.mark.parametrize("frame", FRAMES)
def test_unmute_is_told_of_a_malformed_frame_and_the_socket_stays_open_until_eos(
    speech: Start, frame: str
) -> None:
    with open_socket(speech(), "/api/tts_streaming") as socket:
        assert msgpack.unpackb(bytes(socket.recv(15))) == {"type": "Ready"}  # type: ignore[arg-type]
        socket.send(FRAMES[frame])
        error = msgpack.unpackb(bytes(socket.recv(15)))  # type: ignore[arg-type]
        assert error["type"] == "Error"
        assert len(error["message"]) < 200
        socket.send(msgpack.packb({"type": "Eos"}))
        with pytest.raises(websockets.ConnectionClosedOK):
            socket.recv(15)


def test_a_voice_of_unmute_is_skipped_and_not_read() -> None:
    voice = {"type": "Voice", "embeddings": [0.5] * 64_000, "shape": [1, 512, 125]}
    assert read_msgpack(msgpack.packb(voice), KEYS) == {"type": "Voice"}


@pytest.mark.parametrize("frame", FRAMES)
def test_reading_any_frame_makes_no_object_of_what_is_not_asked_for(frame: str) -> None:
    found: dict[str, Any] = read_msgpack(FRAMES[frame], KEYS) or {}
    assert all(not isinstance(value, list | dict) for value in found.values())


def test_a_map_may_have_as_many_keys_as_its_bound_and_no_more() -> None:
    more = {f"key {number}": None for number in range(MAX_KEYS - 1)}
    assert read_msgpack(msgpack.packb({"type": "Eos"} | more), KEYS) == {"type": "Eos"}
    assert read_msgpack(msgpack.packb({"type": "Eos"} | more | {"one more": None}), KEYS) is None


def test_a_json_message_of_too_many_parts_is_refused_before_it_is_parsed(speech: Start) -> None:
    assert read_json('{"type": "input.done", "a": [[], {}]}') == {"type": "input.done", "a": [[], {}]}
    message = '{"type": "input.text", "a": [' + ",".join(["[]"] * MAX_JSON_PARTS) + "]}"
    with open_socket(speech(), "/v1/audio/speech/stream") as socket:
        socket.send(message)
        error = json.loads(socket.recv(15))
        assert (error["type"], error["code"]) == ("error", "invalid_json")
        assert "flatter" in error["message"]
