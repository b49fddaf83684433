"""The session protocol of `/v1/audio/speech/stream` against a scripted tier 1."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import websockets
from starlette.responses import JSONResponse
from websockets.sync.client import ClientConnection, connect

from orpheus.http.protocols import WebSocketProtocol
from tests.support.audio import decode
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
SEGMENT_BYTES = SPEECH_FRAMES * 2048 * 2
STREAM = {"type": "session.config", "response_format": "pcm", "stream_audio": True, "lead_s": 0}

REFUSED = {"type": "session.done", "utterance_index": None, "total_sentences": 0}
# Tier 1 may send the slow clients below 120 frames for it: a text of fewer characters has an end before that.
SLOW_TEXT = "Hello there, and it goes on for quite a while."
LONG = STREAM | {"speed": 0.25, "sample_rate": 48_000}  # eight times the bytes


class Session:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.audio: list[bytes] = []

    def send(self, type: str, **message: Any) -> None:
        self.socket.send(json.dumps({"type": type, **message}))

    def say(self, *texts: str) -> None:
        for text in texts:
            self.send("input.text", text=text)
        self.send("input.done")

    def until(self, type: str) -> list[dict[str, Any]]:
        """The events up to the next of this type; audio goes to `audio`."""
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != type:
            message = self.socket.recv(15)
            if isinstance(message, bytes):
                self.audio.append(message)
            else:
                events.append(json.loads(message))
        return events


@pytest.fixture
def session(speech: Start) -> Iterator[Callable[..., Session]]:
    with ExitStack() as stack:

        def begin(config: dict[str, Any] | None = STREAM, **options: Any) -> Session:
            base = str(speech(**options).base_url).replace("http", "ws", 1).rstrip("/")
            opened = Session(stack.enter_context(connect(f"{base}/v1/audio/speech/stream", proxy=None)))
            if config is not None:
                opened.socket.send(json.dumps(config))
            return opened

        yield begin


Begin = Callable[..., Session]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def released(upstream: Upstream, count: int = 1) -> None:
    eventually(lambda: upstream.left >= count)
    assert upstream.left == count


def test_two_utterances_on_one_connection(session: Begin, upstream: Upstream) -> None:
    one = session()
    for number in range(2):
        one.audio.clear()
        one.say("Hello ", "there.")
        events = one.until("session.done")
        assert types(events) == ["audio.start", "audio.done", "session.done"]
        assert events[0] | {"utterance_index": number} == {
            "type": "audio.start", "utterance_index": number, "sentence_index": 0, "sentence_text": "Hello there.",
            "format": "pcm", "sample_rate": 24000, "channels": 1,
        }  # fmt: skip
        assert events[1]["total_bytes"] == sum(map(len, one.audio)) == SEGMENT_BYTES
        assert events[1]["duration_s"] == pytest.approx(SEGMENT_BYTES / 48_000, abs=0.001)
        assert events[2]["total_sentences"] == 1
    one.send("session.close")
    with pytest.raises(websockets.ConnectionClosedOK):
        one.socket.recv(5)
    assert [request["prompt"].count("Hello there.") for request in upstream.requests] == [1, 1]


def test_by_default_an_utterance_is_one_file_in_one_frame_as_in_vllm(session: Begin) -> None:
    one = session(None)
    one.say("Hello there.")
    events = one.until("session.done")
    assert events[0]["format"] == "wav"
    assert len(one.audio) == 1
    samples, rate = decode(one.audio[0])
    assert (len(samples), rate) == (SPEECH_FRAMES * 2048, 24_000)


def test_split_by_sentence_each_segment_is_a_file(session: Begin) -> None:
    one = session({"type": "session.config", "response_format": "wav", "split_granularity": "sentence"})
    one.say("This is the first sentence of them. ", "And this one is the second which is longer.")
    events = one.until("session.done")
    assert types(events) == ["audio.start", "audio.done"] * 2 + ["session.done"]
    assert [event["sentence_index"] for event in events[:-1]] == [0, 0, 1, 1]
    assert events[2]["sentence_text"] == "And this one is the second which is longer."
    assert [len(decode(file)[0]) for file in one.audio] == [SPEECH_FRAMES * 2048] * 2


def test_a_pause_belongs_to_the_file_before_it_and_is_none_of_its_own(session: Begin) -> None:
    config = {"type": "session.config", "response_format": "wav", "split_granularity": "sentence"}
    one = session(config | {"stage_directions": "skip"})
    one.say("[pause:1s] Well, hello. *waves* [pau", "se:2s] And goodbye. [pause:500ms]")
    events = one.until("session.done")
    assert [event["sentence_text"] for event in events[:-1:2]] == ["Well, hello.", "And goodbye."]
    assert events[-1]["total_sentences"] == 2
    silences = (24_000 + 48_000, 12_000)
    assert [len(decode(file)[0]) for file in one.audio] == [
        SPEECH_FRAMES * 2048 + samples for samples in silences
    ]


def test_a_thousand_single_characters_are_one_text(session: Begin, upstream: Upstream) -> None:
    one = session(STREAM | {"word_timestamps": True})
    text = ("It was a quiet morning, and nobody in the village had any idea of it. " * 15)[
        :1000
    ].strip() + "."
    one.say(*text)
    events = one.until("session.done")
    words = [event for event in events if event["type"] == "audio.word"]
    assert [word["text"] for word in words] == text.split()
    starts = [word["start_s"] for word in words]
    assert starts == sorted(starts)
    assert events[-1]["total_sentences"] == 1
    prompts = " ".join(request["prompt"] for request in upstream.requests)
    assert prompts.count("nobody in the village") == text.count("nobody in the village")
    assert sum(map(len, one.audio)) == len(upstream.requests) * SEGMENT_BYTES


def test_the_first_clause_is_spoken_while_the_rest_is_written(session: Begin, upstream: Upstream) -> None:
    one = session()
    one.send("input.text", text="Well, my dear friend, that ")
    one.until("audio.start")
    assert one.socket.recv(10)
    assert "Well, my dear friend." in upstream.requests[0]["prompt"]
    one.say("is how it is.")
    one.until("session.done")
    assert "that is how it is." in upstream.requests[1]["prompt"]


def test_cancel_stops_at_once_and_the_next_utterance_starts_clean(session: Begin, upstream: Upstream) -> None:
    one = session()
    for attempt in range(4):
        upstream.events, upstream.pause_s = whole(500), 0.02
        one.audio.clear()
        one.send("input.text", text="Something that is long enough to be spoken, and more of it, and")
        one.until("audio.start")
        time.sleep(random.Random(attempt).uniform(0, 0.3))
        one.send("input.cancel")
        cancelled = one.until("audio.cancelled")[-1]
        assert cancelled["sent_s"] <= sum(map(len, one.audio)) / 48_000 + 0.001
        released(upstream, attempt + 1)
        upstream.events, upstream.pause_s = whole(), 0.0
        one.audio.clear()
        one.say("The next.")
        events = one.until("session.done")
        assert types(events) == ["audio.start", "audio.done", "session.done"]
        assert sum(map(len, one.audio)) == SEGMENT_BYTES


def test_cancel_also_drops_waiting_utterances(session: Begin, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    one = session()
    one.say("The first of them.")
    one.until("audio.start")
    one.say("The second of them.")
    one.send("input.cancel")
    assert one.until("audio.cancelled")[-1]["utterance_index"] == 0
    assert one.until("audio.cancelled")[-1]["utterance_index"] == 1
    one.send("input.cancel")  # nothing is left
    assert one.until("audio.cancelled")[-1] == {"type": "audio.cancelled"}


def test_cancel_reaches_an_utterance_that_waits_for_admission(speech: Start, upstream: Upstream) -> None:
    base = str(speech(max_requests=1).base_url).replace("http", "ws", 1).rstrip("/")
    url = f"{base}/v1/audio/speech/stream"
    with connect(url, proxy=None) as first, connect(url, proxy=None) as second:
        talking, waiting = Session(first), Session(second)
        for one in (talking, waiting):
            one.socket.send(json.dumps(STREAM))
        upstream.events, upstream.pause_s = whole(500), 0.02
        talking.say("This takes all the capacity there is.")
        talking.until("audio.start")
        waiting.say("This one has to wait.")
        time.sleep(0.2)  # most likely it waits by now; nothing outside shows it
        waiting.send("input.cancel")
        assert waiting.until("audio.cancelled")[-1] == {
            "type": "audio.cancelled",
            "utterance_index": 0,
            "sent_s": 0,
        }
        talking.send("input.cancel")
        talking.until("audio.cancelled")
        upstream.events, upstream.pause_s = whole(), 0.0
        waiting.say("Now there is capacity.")
        assert types(waiting.until("session.done")) == ["audio.start", "audio.done", "session.done"]
    assert len(upstream.requests) == 2, "the cancelled utterance never reached tier 1"


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ("", "invalid_json", "JSON object"),
        ("{", "invalid_json", "JSON object"),
        ("[1]", "invalid_json", "JSON object"),
        ("[" * 5000, "invalid_json", "JSON object"),
        ('"input.text"', "invalid_json", "JSON object"),
        ("{}", None, "message type 'None'"),
        ('{"type": "input.speak"}', None, "input.speak"),
        ('{"type": "input.text"}', None, "a string"),
        ('{"type": "input.text", "text": 5}', None, "a string"),
        ('{"type": "input.done"}', "empty_input", "before any text"),
        ('{"type": "session.config", "voice": "bob"}', "voice_not_found", "no voice 'bob'"),
        ('{"type": "session.config", "speed": 9}', "invalid_value", "speed"),
        ('{"type": "session.config", "response_format": "mp4"}', "invalid_value", "response_format"),
        ('{"type": "session.config", "lead_s": -1}', "invalid_value", "lead_s"),
        (b"\x00\x01", None, "binary"),
    ],
)
def test_an_invalid_message_is_reported_and_the_connection_stays_open(
    session: Begin, message: str | bytes, code: str | None, reason: str
) -> None:
    one = session()
    one.socket.send(message)
    error = one.until("error")[-1]
    assert error["code"] == code
    assert reason in error["message"]
    one.say("Still here.")
    assert types(one.until("session.done"))[-1] == "session.done"


def test_an_emoji_may_arrive_in_two_halves(session: Begin) -> None:
    one = session(STREAM | {"word_timestamps": True})
    for text in (
        '"Hello there \\ud83d"',
        '"\\ude00 my friend."',
    ):  # as JavaScript slices a string
        one.socket.send(f'{{"type": "input.text", "text": {text}}}')
    one.send("input.done")
    words = [event["text"] for event in one.until("session.done") if event["type"] == "audio.word"]
    assert words == ["Hello", "there", "😀", "my", "friend."]


def test_a_config_during_an_utterance_is_refused(session: Begin, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    one = session()
    one.say("Hello there.")
    one.until("audio.start")
    one.send("session.config", voice="leo")
    assert "session.config" in one.until("error")[-1]["message"]


def test_endless_text_is_refused_and_the_connection_stays_open(
    session: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.server.utterance_queue.MAX_STREAMED_CHARS", 100)
    one = session()
    one.send("input.text", text="x" * 101)
    assert one.until("error")[-1]["code"] == "request_too_large"
    one.send("input.done")
    assert one.until("session.done")[-1] == REFUSED
    one.say("Short.")
    assert types(one.until("session.done")) == ["audio.start", "audio.done", "session.done"]


def test_text_that_becomes_too_long_is_refused_once_and_what_came_before_is_spoken(
    session: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.server.utterance_queue.MAX_STREAMED_CHARS", 100)
    one = session()
    for _ in range(20):
        one.send("input.text", text="One more word. ")
    one.send("input.done")
    events = one.until("session.done")
    assert types(events).count("error") == 1
    assert (events[-1]["utterance_index"], events[-1]["total_sentences"]) == (0, 1)


def test_each_text_has_its_end_in_its_place_whether_it_was_refused_or_not(
    session: Begin, upstream: Upstream
) -> None:
    upstream.hang_after = 4
    one = session()
    one.say("The first.")
    one.until("audio.start")
    for number in range(8):
        one.say(f"Number {number} waits.")
    for _ in range(3):
        one.say("One too many.")
    upstream.go_on.set()
    ends = [one.until("session.done")[-1]["utterance_index"] for _ in range(12)]
    assert ends == [*range(9), None, None, None]
    one.say("The next.")
    assert one.until("session.done")[-1]["utterance_index"] == 9


def test_a_refused_text_has_its_end_when_the_session_is_closed_but_no_text_has_none(session: Begin) -> None:
    for text, end in (("Hello.", [REFUSED]), ("", [])):
        one = session(None)
        one.send("session.config", voice="nobody")
        one.send("input.text", text=text)
        one.send("session.close")
        error, *rest = [json.loads(message) for message in one.socket]
        assert (error["type"], rest) == ("error", end)
        assert one.socket.close_code == 1000


def test_too_many_waiting_utterances_are_refused(session: Begin, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    one = session()
    for _ in range(10):
        one.say("Hello.")
    assert "already waiting" in one.until("error")[-1]["message"]


@pytest.mark.parametrize("end", ["input.done", "input.cancel"])
def test_a_refused_utterance_is_not_begun_in_its_middle(session: Begin, upstream: Upstream, end: str) -> None:
    upstream.hang_after = 4
    one = session()
    one.say("The first.")
    one.until("audio.start")
    for number in range(8):
        one.say(f"Number {number} waits.")
    one.send("input.text", text="This one is too many ")
    assert "already waiting" in one.until("error")[-1]["message"]
    upstream.go_on.set()
    for _ in range(9):
        one.until("session.done")
    one.send("input.text", text="and this is its middle.")
    one.send(end)
    assert one.until("session.done" if end == "input.done" else "audio.cancelled")
    one.say("The next.")
    events = one.until("session.done")
    assert "error" not in types(events)
    assert events[-1]["utterance_index"] == 9
    prompts = [request["prompt"] for request in upstream.requests]
    assert "The next." in prompts[-1]
    assert not any("middle" in prompt for prompt in prompts)


def test_a_tier_1_that_dies_is_reported_and_the_next_utterance_is_spoken(
    session: Begin, upstream: Upstream
) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    one = session()
    one.say("Hello there.")
    events = one.until("session.done")
    assert types(events) == ["audio.start", "audio.done", "error", "session.done"]
    assert events[1]["error"] is True
    assert (events[2]["code"], events[2]["partial_audio"]) == ("upstream_error", True)
    upstream.reset()
    one.say("Again.")
    assert types(one.until("session.done")) == ["audio.start", "audio.done", "session.done"]


def test_the_rest_of_an_utterance_that_failed_is_not_spoken(session: Begin, upstream: Upstream) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    one = session()
    one.send("input.text", text="Well, my dear friend, that ")
    one.until("session.done")
    upstream.reset()
    one.say("is how it is.")
    one.say("Another one.")
    assert one.until("session.done")[0]["utterance_index"] == 1
    assert [request["prompt"].count("Another one.") for request in upstream.requests] == [1]


def test_a_full_tier_1_is_waited_for(session: Begin, upstream: Upstream) -> None:
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429)
    one = session()
    one.say("Hello there.")
    eventually(lambda: len(upstream.requests) > 1)
    upstream.answer = None
    assert types(one.until("session.done")) == ["audio.start", "audio.done", "session.done"]


def test_closing_the_connection_cancels_tier_1(session: Begin, upstream: Upstream) -> None:
    for number in range(3):
        upstream.events, upstream.pause_s = whole(500), 0.02
        one = session()
        one.say("Hello there.")
        one.until("audio.start")
        time.sleep(0.05 * number)
        one.socket.close()
        released(upstream, number + 1)


def test_the_lead_is_bounded(session: Begin, upstream: Upstream) -> None:
    upstream.events = ["".join(whole(36))]  # 3 s, generated at once
    one = session(STREAM | {"lead_s": 1.0})
    started_s = time.monotonic()
    one.say("Hello there.")
    one.until("audio.done")
    assert time.monotonic() - started_s > 1.5
    assert sum(map(len, one.audio)) == 36 * 2048 * 2


def test_a_client_that_sends_no_text_is_closed(session: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.FIRST_TEXT_S", 0.3)
    one = session(None)
    with pytest.raises(websockets.ConnectionClosedOK) as closed:
        one.socket.recv(15)
    assert "no text" in str(closed.value)


def test_a_client_that_stops_in_mid_text_is_closed(session: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.IDLE_S", 0.6)
    one = session()
    one.send("input.text", text="Well, my dear friend, that ")
    with pytest.raises(websockets.ConnectionClosedOK):
        one.until("session.done")


class SlowSocket(socket.socket):
    """Reads at most a megabyte a second, and nothing while `stuck`."""

    stuck = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        time.sleep(0.004)
        while self.stuck:
            time.sleep(0.01)
        return super().recv(min(size, 4096), flags)


@pytest.fixture
def slow_client(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ClientConnection]]:
    """Opens a WebSocket with small buffers on the way, pings every 0.6 s, and a client that reads slowly."""

    def start_keepalive(self: WebSocketProtocol) -> None:
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.ping_interval = self.ping_timeout = 0.6
        super(WebSocketProtocol, self).start_keepalive()

    monkeypatch.setattr(WebSocketProtocol, "start_keepalive", start_keepalive)
    upstream.events = ["".join(whole(120))]
    with ExitStack() as stack:

        def begin(client: httpx.Client, path: str) -> ClientConnection:
            raw = SlowSocket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            raw.connect((client.base_url.host, client.base_url.port))
            url = f"ws://{client.base_url.host}:{client.base_url.port}{path}"
            opened = connect(url, sock=raw, proxy=None, max_size=None, close_timeout=0.1, ping_interval=None)
            stack.enter_context(opened)
            stack.callback(setattr, raw, "stuck", False)  # first, as closing would wait forever
            return opened

        yield begin


def shorten_stall(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.STALL_S", seconds)  # of a frame
    monkeypatch.setattr("orpheus.http.connections.STALL_S", seconds)  # of the connection


def ended(client: httpx.Client, route: str, *statuses: str) -> None:
    """Return once a socket of this route ended with one of these, and no utterance is in progress."""
    wanted = [f'route="{route}",status="{status}"' for status in statuses]

    def is_over() -> bool:
        metrics = client.get("/metrics").text
        return any(labels in metrics for labels in wanted) and "orpheus_speech_active 0.0" in metrics

    eventually(is_over, 30)


@pytest.mark.parametrize("stream_audio", [True, False])
def test_a_client_that_stops_reading_is_dropped(
    speech: Start,
    slow_client: Callable[..., ClientConnection],
    stream_audio: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten_stall(monkeypatch, 0.5)
    client = speech(max_requests=9)
    slow = slow_client(client, "/v1/audio/speech/stream")
    slow.send(json.dumps(LONG | {"stream_audio": stream_audio}))
    slow.send(json.dumps({"type": "input.text", "text": SLOW_TEXT}))
    slow.send('{"type": "input.done"}')
    slow.recv(10)
    slow.socket.stuck = True  # type: ignore[attr-defined]
    ended(client, "/v1/audio/speech/stream", "1006", "0", "1005")


def test_a_client_that_stops_reading_and_sends_garbage_is_dropped(
    speech: Start, slow_client: Callable[..., ClientConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_stall(monkeypatch, 1.0)
    client = speech(max_requests=9)
    slow = slow_client(client, "/ws?lead_s=0&close=eos&speed=0.25")
    slow.send(SLOW_TEXT)
    slow.recv(10)
    slow.socket.stuck = True  # type: ignore[attr-defined]
    time.sleep(0.8)
    slow.send(b"\xc1 is no msgpack")  # the close frame in response has no room either
    ended(client, "/ws", "1006", "0", "1005", "1008")


@pytest.mark.slow
def test_a_client_that_reads_slowly_is_not_dropped(
    speech: Start, slow_client: Callable[..., ClientConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    stall_s = 1.0
    shorten_stall(monkeypatch, stall_s)
    slow = Session(slow_client(speech(), "/v1/audio/speech/stream"))
    slow.socket.send(json.dumps(LONG | {"stream_audio": False}))  # a whole file in one frame
    started_s = time.monotonic()
    slow.say(SLOW_TEXT)
    assert types(slow.until("session.done")) == ["audio.start", "audio.done", "session.done"]
    assert time.monotonic() - started_s > 2 * stall_s
    assert len(slow.audio[0]) > 120 * 2048 * 2 * 8 * 0.99


def test_a_keepalive_is_sent_when_nothing_else_is(session: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.KEEP_ALIVE_S", 0.2)
    one = session()
    assert one.until("session.keepalive")
