"""A text with nothing to say over a socket is said in no time, and ends as the protocol ends any text; REST refuses it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from tests.support.speech import PATH, ask, error_of
from tests.support.upstream import SPEECH_FRAMES, Upstream

Start = Callable[..., httpx.Client]
SEGMENT_BYTES = SPEECH_FRAMES * 2048 * 2
NOTHING = [
    "...",
    "…",
    "🙂",
    "*** ",
    "---",
    "# ",
    "<b></b>",
    "?!",
    "&nbsp;",
    "&#128512;",
    "\u200b\u200b",
    "```\n```",
]


def dial(client: httpx.Client, path: str) -> ClientConnection:
    return connect(str(client.base_url).replace("http", "ws", 1).rstrip("/") + path, proxy=None)


def session_events(socket: ClientConnection, *texts: str) -> tuple[list[dict[str, Any]], int]:
    """The events of one utterance up to its end, and the bytes of its audio."""
    for text in texts:
        socket.send(json.dumps({"type": "input.text", "text": text}))
    socket.send('{"type": "input.done"}')
    events: list[dict[str, Any]] = []
    size = 0
    while not events or events[-1]["type"] != "session.done":
        message = socket.recv(10)
        if isinstance(message, bytes):
            size += len(message)
        else:
            events.append(json.loads(message))
    return events, size


@pytest.mark.parametrize("nothing", NOTHING)
def test_the_plain_socket_closes_with_1000(speech: Start, upstream: Upstream, nothing: str) -> None:
    with dial(speech(), "/ws?events=json") as socket:
        socket.send(nothing)
        frames = list(socket)
        assert socket.close_code == 1000
    assert [json.loads(frame)["type"] for frame in frames if "word" not in str(frame)] == ["session.done"]
    assert upstream.requests == []


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize(
    "config",
    [
        {"response_format": "pcm", "stream_audio": True},
        {"response_format": "wav", "stream_audio": True},
        {"response_format": "mp3"},
        {"response_format": "wav", "split_granularity": "sentence", "word_timestamps": True},
    ],
    ids=["pcm", "wav stream", "mp3 file", "wav files"],
)
def test_a_session_ends_the_utterance_without_a_part(
    speech: Start, upstream: Upstream, nothing: str, config: dict[str, Any]
) -> None:
    with dial(speech(), "/v1/audio/speech/stream") as socket:
        socket.send(json.dumps({"type": "session.config"} | config))
        events, size = session_events(socket, *nothing)
        assert size == 0
        assert {event["type"] for event in events} <= {"audio.word", "session.done"}
        assert events[-1] == {"type": "session.done", "utterance_index": 0, "total_sentences": 0}
        events, size = session_events(socket, "Words again.")
        assert size > 0
        assert events[-1]["total_sentences"] == 1
    assert len(upstream.requests) == 1


def test_an_emoji_between_two_good_utterances_disturbs_neither(speech: Start, upstream: Upstream) -> None:
    with dial(speech(), "/ws?lead_s=0") as socket:
        for text in ("One thing.", "🙂", "Another thing."):
            socket.send(text)
        assert sum(map(len, socket)) == 2 * SEGMENT_BYTES
        assert socket.close_code == 1000
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("nothing", ["...", "🙂", "***"])
def test_unmute_gets_a_turn_without_audio_and_without_an_error(
    speech: Start, upstream: Upstream, nothing: str
) -> None:
    with dial(speech(), "/api/tts_streaming") as socket:
        socket.send(msgpack.packb({"type": "Text", "text": nothing}))
        socket.send(msgpack.packb({"type": "Eos"}))
        messages = [msgpack.unpackb(data) for data in socket]  # type: ignore[arg-type]
        assert socket.close_code == 1000
    assert {message["type"] for message in messages} <= {"Ready", "Text"}
    assert upstream.requests == []


@pytest.mark.parametrize("nothing", [text for text in NOTHING if text.strip()])
def test_rest_refuses_it(speech: Start, nothing: str) -> None:
    response = speech().post(PATH, json=ask(input=nothing))
    assert response.status_code == 400
    assert error_of(response)["code"] == "empty_input"


def test_nothing_to_say_counts_as_done_and_opens_no_gauge(speech: Start) -> None:
    client = speech(max_requests=9)
    with dial(client, "/ws") as socket, contextlib.suppress(websockets.ConnectionClosed):
        socket.send("🙂")
        list(socket)
    metrics = client.get("/metrics").text
    assert "orpheus_speech_active 0.0" in metrics
    assert "orpheus_speech_waiting 0.0" in metrics
    assert 'route="/ws",status="1000"' in metrics
