"""`/v1/audio/speech/stream/ws` against a scripted tier 1."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import httpx
import msgpack
import pytest
import websockets
from starlette.responses import JSONResponse
from websockets.sync.client import ClientConnection, connect

from orpheus.errors import EngineError
from orpheus.server.sockets.connection import close_reason
from tests.support.live import Pair
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]


def open_socket(client: httpx.Client, query: str = "?voice=tara") -> ClientConnection:
    base = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    return connect(f"{base}/v1/audio/speech/stream/ws{query}", proxy=None)


def close_of(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(websockets.ConnectionClosed) as caught:
        while True:
            socket.recv(10)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def test_text_in_samples_out_and_1000_at_the_end(speech: Start) -> None:
    client = speech()
    with open_socket(client) as socket:
        socket.send("Hello there.")
        frames = list(socket)
        assert socket.close_code == 1000
    assert all(isinstance(frame, bytes) and len(frame) % 2 == 0 for frame in frames)
    assert sum(map(len, frames)) == SPEECH_FRAMES * 2048 * 2
    same = client.post("/v1/audio/speech/stream", json={"input": "Hello there.", "voice": "tara"})
    assert b"".join(map(bytes, frames)) == same.content  # type: ignore[arg-type]


def test_samples_are_24_khz_whatever_the_setting(speech: Start) -> None:
    with open_socket(speech(sample_rate=48_000)) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) == SPEECH_FRAMES * 2048 * 2


def test_frames_stay_within_64_kib(speech: Start, upstream: Upstream) -> None:
    upstream.events = ["".join(whole(40))]
    with open_socket(speech(), "?speed=0.25&lead_s=0") as socket:
        socket.send("Hello there.")
        assert max(map(len, socket)) <= 64 * 1024


@pytest.mark.parametrize(
    "query", ["", "?voice=tara&model=orpheus&speed=1.0&llama_endpoint=http://x:1", "?voice=ALLOY"]
)
def test_queries_of_existing_clients_are_accepted(speech: Start, query: str) -> None:
    with open_socket(speech(), query) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) > 0


@pytest.mark.parametrize(
    ("query", "text", "reason"),
    [
        ("?voice=bob", "Hello.", "no voice"),
        ("", "你好，世界。", "the English voice"),
        ("?speed=9", "Hello.", "speed"),
        ("?speed=x", "Hello.", "speed"),
        ("?response_format=mp3", "Hello.", "only pcm"),
        ("?close=never", "Hello.", "close must be"),
        ("?lead_s=-1", "Hello.", "lead_s"),
        ("", b"\xc1", "not valid msgpack"),
        ("", msgpack.packb({"type": "Text"}), "with a 'text'"),
        ("", msgpack.packb([1, 2]), "type Text"),
        ("", '{"type": "text", "text": ', "starts like JSON"),
        ("", '{"type": "shout"}', "type Text"),
    ],
)
def test_an_invalid_request_closes_with_1008_and_the_reason(
    speech: Start, query: str, text: str | bytes, reason: str
) -> None:
    with open_socket(speech(), query) as socket:
        with contextlib.suppress(websockets.ConnectionClosed):  # an invalid query is reported before any text
            socket.send(text)
        code, given = close_of(socket)
    assert code == 1008
    assert reason in given


def test_a_full_tier_1_closes_with_1013(
    speech: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.tts.pipeline.CAPACITY_WAIT_S", 0.5)
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429)
    with open_socket(speech()) as socket:
        socket.send("Hello.")
        assert close_of(socket)[0] == 1013


def test_a_tier_1_that_dies_closes_with_1011(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    with open_socket(speech()) as socket:
        socket.send("Hello.")
        assert len(socket.recv(10)) > 0
        assert close_of(socket)[0] == 1011


def test_leaving_cancels_tier_1_at_once(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    with open_socket(speech()) as socket:
        socket.send("Hello.")
        socket.recv(10)
    eventually(lambda: upstream.left == 1)


def test_a_client_that_leaves_without_sending_text_is_not_an_error(speech: Start, upstream: Upstream) -> None:
    with open_socket(speech()):
        pass
    assert upstream.requests == []


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_words_are_spoken_as_they_arrive_until_eos(speech: Start, upstream: Upstream, format: str) -> None:
    def pack(**message: str) -> str | bytes:
        return json.dumps(message) if format == "json" else msgpack.packb(message)

    with open_socket(speech(), "?lead_s=0") as socket:
        for word in ("Hello", "there", ",", "my", "friend", ",", "how", "are", "you", "?"):
            socket.send(pack(type="Text", text=word, voice="leo"))
        size = len(socket.recv(10))  # before the end of the text
        socket.send(pack(type="Eos"))
        size += sum(map(len, socket))
        assert socket.close_code == 1000
    prompts = [request["prompt"] for request in upstream.requests]
    assert "leo: Hello there, my friend." in prompts[0]
    assert size == len(prompts) * SPEECH_FRAMES * 2048 * 2


def test_the_short_path_accepts_a_zero_byte_as_eos(speech: Start, upstream: Upstream) -> None:
    base = str(speech().base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{base}/ws?close=eos", proxy=None) as socket:
        socket.send("One")
        socket.send("and two.")
        socket.send(b"\0")
        assert sum(map(len, socket)) == SPEECH_FRAMES * 2048 * 2
    assert "One and two." in upstream.requests[0]["prompt"]


def test_text_that_arrives_during_speech_is_spoken_after_it(speech: Start, upstream: Upstream) -> None:
    with open_socket(speech()) as socket:
        socket.send("One thing.")
        socket.send("Another thing.")
        assert sum(map(len, socket)) == 2 * SPEECH_FRAMES * 2048 * 2
        assert socket.close_code == 1000


def test_any_number_of_texts_may_wait(speech: Start, upstream: Upstream) -> None:
    texts = [f"This is number {number} of them." for number in range(40)]
    with open_socket(speech(), "?lead_s=0") as socket:
        for text in texts:
            socket.send(text)
        size = sum(map(len, socket))
        assert socket.close_code == 1000
    assert size == len(upstream.requests) * SPEECH_FRAMES * 2048 * 2
    prompts = " ".join(request["prompt"] for request in upstream.requests)
    assert [prompts.count(text) for text in texts] == [1] * 40


def test_empty_text_closes_with_1000(speech: Start, upstream: Upstream) -> None:
    for message in ("", "  ", b"\0", '{"type": "eos"}'):
        with open_socket(speech()) as socket:
            socket.send(message)
            assert close_of(socket) == (1000, "")
    assert upstream.requests == []


def test_events_are_sent_only_on_request(speech: Start) -> None:
    with open_socket(speech(), "?events=json") as socket:
        socket.send("Hello there, you.")
        frames = list(socket)
    events = [json.loads(frame) for frame in frames if isinstance(frame, str)]
    assert [event["type"] for event in events] == [
        "audio.start", *["audio.word"] * 3, "audio.done", "session.done",
    ]  # fmt: skip
    assert [event["text"] for event in events[1:4]] == ["Hello", "there,", "you."]
    assert events[4]["total_bytes"] == sum(len(frame) for frame in frames if isinstance(frame, bytes))


def test_an_error_is_also_sent_as_an_event(speech: Start) -> None:
    with open_socket(speech(), "?events=json&voice=bob") as socket:
        error = json.loads(socket.recv(10))
        assert (error["type"], error["code"]) == ("error", "voice_not_found")
        assert close_of(socket)[0] == 1008


def test_a_text_over_the_limit_closes_with_1009(speech: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.server.utterance_queue.MAX_STREAMED_CHARS", 200)
    client = speech()
    with open_socket(client) as socket:
        socket.send("x" * 300)
        code, reason = close_of(socket)
        assert code == 1009
        assert "200 characters" in reason


@pytest.mark.parametrize("path", ["/v1/audio/speech/stream", "/ws", "/api/tts_streaming"])
def test_a_message_of_two_megabytes_closes_a_real_server_with_1009(pair: Pair, path: str) -> None:
    url = f"{pair.url.replace('http', 'ws', 1)}{path}"
    with connect(url, proxy=None) as socket, pytest.raises(websockets.ConnectionClosed) as caught:
        socket.send(b"x" * (2 << 20))
        while True:
            socket.recv(10)
    # The close code is lost if the connection breaks while the message is still being sent.
    assert caught.value.rcvd is None or caught.value.rcvd.code == 1009


def test_a_close_reason_fits_its_frame() -> None:
    assert len(close_reason(EngineError("é" * 200)).encode()) <= 123


def test_a_pause_and_stage_directions_over_a_plain_socket(speech: Start, upstream: Upstream) -> None:
    with open_socket(speech(), "?stage_directions=skip&lead_s=0") as socket:
        socket.send("Wait [pause:1s] what? *waves*")
        assert sum(map(len, socket)) == (2 * SPEECH_FRAMES * 2048 + 24_000) * 2
    assert len(upstream.requests) == 2
    with open_socket(speech(), "?stage_directions=sing") as socket:
        code, reason = close_of(socket)
    assert code == 1008
    assert "stage_directions must be" in reason
