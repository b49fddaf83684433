"""What a client sends after it said that no more comes, on every socket: not spoken, and the socket closes as promised."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from tests.support.upstream import Upstream, whole

Start = Callable[..., httpx.Client]
SESSION, PLAIN, UNMUTE = "/v1/audio/speech/stream", "/v1/audio/speech/stream/ws", "/api/tts_streaming"
CONFIG = json.dumps({"type": "session.config", "response_format": "pcm", "stream_audio": True, "lead_s": 0})


def as_json(type: str, **fields: Any) -> str:
    return json.dumps({"type": type, **fields})


def packed(type: str, **fields: Any) -> bytes:
    return bytes(msgpack.packb({"type": type, **fields}))


TEXT = "This is all there is."
LATE = "This came after the end."
# Path, what is sent, what ends it, and what comes after.
CASES: dict[str, tuple[str, list[str | bytes], str | bytes, list[str | bytes]]] = {
    "session": (
        SESSION,
        [CONFIG, as_json("input.text", text=TEXT), as_json("input.done")],
        as_json("session.close"),
        [as_json("input.text", text=LATE), as_json("input.done"), CONFIG, as_json("session.close")],
    ),
    "session, text not completed": (
        SESSION,
        [CONFIG, as_json("input.text", text=TEXT)],
        as_json("session.close"),
        [as_json("input.text", text=LATE), as_json("input.text", text=LATE)],
    ),
    "session, junk": (
        SESSION,
        [CONFIG, as_json("input.text", text=TEXT)],
        as_json("session.close"),
        ["{", "[1]", b"\x00", as_json("input.shout"), as_json("input.text", text=5), as_json("input.done")],
    ),
    "plain, json": (
        PLAIN,
        [as_json("text", text=TEXT)],
        as_json("eos"),
        [as_json("text", text=LATE), LATE, as_json("eos"), packed("Text", text=LATE)],
    ),
    "plain, msgpack": (
        PLAIN,
        [packed("Text", text=TEXT)],
        packed("Eos"),
        [packed("Text", text=LATE), packed("Eos")],
    ),
    "plain, zero byte": (PLAIN + "?close=eos", [TEXT], b"\0", [LATE, b"\0"]),
    "plain, whole text": (PLAIN, [TEXT], "", [LATE]),
    "plain, junk": (PLAIN, [packed("Text", text=TEXT)], packed("Eos"), [b"\xc1", '{"type": ', packed("X")]),
    "unmute": (
        UNMUTE,
        [packed("Text", text=TEXT)],
        packed("Eos"),
        [packed("Text", text=LATE), packed("Eos")],
    ),
    "unmute, old": (UNMUTE, [TEXT], b"\0", [LATE, b"\0"]),
    "unmute, junk": (UNMUTE, [packed("Text", text=TEXT)], packed("Eos"), [b"\xc1", packed("Shout"), b""]),
}


def open_socket(client: httpx.Client, path: str) -> ClientConnection:
    return connect(str(client.base_url).replace("http", "ws", 1).rstrip("/") + path, proxy=None)


def rest_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """The events until the socket closes, and its code."""
    events: list[dict[str, Any]] = []
    with pytest.raises(websockets.ConnectionClosed) as caught:
        while True:
            message = socket.recv(15)
            if isinstance(message, str):
                events.append(json.loads(message))
            elif b"type" in message[:8]:  # of unmute's messages; other binary frames are samples
                events.append(msgpack.unpackb(message))
    assert caught.value.rcvd is not None
    return events, caught.value.rcvd.code


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "while it speaks"])
def test_what_comes_after_the_end_is_ignored(
    speech: Start, upstream: Upstream, case: str, at_once: bool
) -> None:
    path, messages, end, late = CASES[case]
    upstream.events, upstream.pause_s = whole(), 0.02
    with open_socket(speech(), path) as socket:
        for message in [*messages, end]:
            socket.send(message)
        if not at_once:
            socket.recv(10)
        for message in late:
            socket.send(message)
        events, code = rest_of(socket)
    assert code == 1000
    assert [event for event in events if event["type"] in ("error", "Error")] == []
    prompts = [request["prompt"] for request in upstream.requests]
    assert len(prompts) == 1
    assert TEXT in prompts[0]


@pytest.mark.parametrize("case", ["session", "plain, json", "unmute"])
def test_an_end_with_nothing_before_it_closes_at_once_whatever_follows(
    speech: Start, upstream: Upstream, case: str
) -> None:
    path, _, end, late = CASES[case]
    with open_socket(speech(), path) as socket:
        for message in [end, *late]:
            try:
                socket.send(message)
            except websockets.ConnectionClosedOK:
                break
        assert rest_of(socket)[1] == 1000
    assert upstream.requests == []


def test_speech_can_still_be_stopped_after_session_close(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    with open_socket(speech(), SESSION) as socket:
        for message in (CONFIG, as_json("input.text", text=TEXT), as_json("session.close")):
            socket.send(message)
        socket.recv(10)
        socket.send(as_json("input.cancel"))
        events, code = rest_of(socket)
    assert code == 1000
    assert events[-1]["type"] == "audio.cancelled"
    assert "session.done" not in [event["type"] for event in events]
