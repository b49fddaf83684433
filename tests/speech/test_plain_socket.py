"""`/v1/audio/speech/stream/ws` against a scripted tier 1."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
import websockets
from starlette.responses import JSONResponse
from websockets.sync.client import ClientConnection, connect

from orpheus.errors import EngineError
from orpheus.speech.sockets.plain import close_reason
from tests.upstream import SPEECH_FRAMES, Upstream, whole

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


def test_it_is_24_khz_whatever_the_setting(speech: Start) -> None:
    with open_socket(speech(sample_rate=48_000)) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) == SPEECH_FRAMES * 2048 * 2


def test_frames_stay_within_64_kib(speech: Start, upstream: Upstream) -> None:
    upstream.events = ["".join(whole(40))]
    with open_socket(speech(), "?speed=0.25") as socket:
        socket.send("Hello there.")
        assert max(map(len, socket)) <= 64 * 1024


@pytest.mark.parametrize(
    "query", ["", "?voice=tara&model=orpheus&speed=1.0&llama_endpoint=http://x:1", "?voice=ALLOY"]
)
def test_every_query_clients_send_is_taken(speech: Start, query: str) -> None:
    with open_socket(speech(), query) as socket:
        socket.send("Hello there.")
        assert sum(map(len, socket)) > 0


@pytest.mark.parametrize(
    ("query", "text", "says"),
    [
        ("?voice=bob", "Hello.", "no voice"),
        ("", "", "nothing to say"),
        ("?speed=9", "Hello.", "speed"),
        ("?speed=x", "Hello.", "speed"),
        ("", "x" * 5000, "characters"),
        ("", b"\x00\x01", "text frame"),
    ],
)
def test_a_wrong_request_closes_with_1008_and_why(
    speech: Start, query: str, text: str | bytes, says: str
) -> None:
    with open_socket(speech(), query) as socket:
        socket.send(text)
        code, reason = close_of(socket)
    assert code == 1008
    assert says in reason


def test_a_full_tier_1_closes_with_1013(speech: Start, upstream: Upstream) -> None:
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
    deadline = time.monotonic() + 2
    while not upstream.left and time.monotonic() < deadline:
        time.sleep(0.01)
    assert upstream.left == 1


def test_a_client_that_leaves_without_a_word_is_no_error(speech: Start, upstream: Upstream) -> None:
    with open_socket(speech()):
        pass
    assert upstream.requests == []


def test_a_close_reason_fits_its_frame() -> None:
    assert len(close_reason(EngineError("é" * 200)).encode()) <= 123
