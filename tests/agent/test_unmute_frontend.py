"""unmute's web page in conversation with the agent, whose backend it takes the agent for."""

from __future__ import annotations

import base64
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import httpx
import numpy as np
import pytest
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from orpheus.agent.sockets import unmute_frontend
from orpheus.agent.sockets.unmute_characters import CHARACTERS, Character, system_prompt
from orpheus.errors import UpstreamError
from tests.agent.conftest import Host
from tests.agent.test_opus import hours
from tests.support.agent import silence
from tests.support.unmute_frontend import Page, dialled, recorded
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

LONG = ["One two three four five six seven. ", "Eight nine ten eleven twelve thirteen. ", "The end of it."]
Open = Callable[..., Page]


@pytest.fixture
def page(host: Host) -> Iterator[Open]:
    """Opens a page, which says who it talks to unless `begins` is false."""
    with ExitStack() as stack:

        def opened(
            path: str = "/v1/realtime",
            *,
            begins: bool = True,
            at: Host | None = None,
            left_over: bytes = b"",
            **session: Any,
        ) -> Page:
            where = at or host
            made = Page(stack.enter_context(dialled(where.url, path)), where.script, left_over)
            if begins:
                made.begin(**session)
            return made

        yield opened


@pytest.fixture(scope="module")
def other(start_host: Callable[..., Host]) -> Iterator[Host]:
    """One with keys, for pages of another origin, and for one conversation."""
    with ExitStack() as stack:
        yield start_host(
            stack, api_keys="secret-key", max_conversations=1, cors_origins="http://localhost:3000"
        )


def types(events: list[dict[str, Any]]) -> list[str]:
    """Without audio and words in a row."""
    listed = [event["type"] for event in events if event["type"] != "unmute.additional_outputs"]
    return [type for at, type in enumerate(listed) if at == 0 or type != listed[at - 1]]


def words(events: list[dict[str, Any]]) -> str:
    return " ".join(event["delta"] for event in events if event["type"] == "response.text.delta")


# A conversation


@pytest.mark.parametrize("path", ["/v1/realtime", pytest.param("/ws", marks=pytest.mark.slow)])
def test_it_is_greeted_and_holds_a_conversation(page: Open, host: Host, path: str) -> None:
    host.script.thinker.answers = [["Good day to you."], ["It is sunny in Rome."]]
    open_page = page(path=path)
    events = open_page.answer()
    assert words(events) == "Good day to you."
    kinds = types(events)
    assert kinds[0] == "response.created"
    assert kinds[-2:] == ["response.audio.delta", "response.audio.done"]
    assert {"response.text.delta", "response.text.done"} <= set(kinds)
    assert host.script.thinker.last == [("user", "Hello!")]

    open_page.say("How is the weather?")
    events = open_page.answer()
    kinds = types(events)
    assert kinds[:4] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "conversation.item.input_audio_transcription.delta",
        "response.created",
    ]
    assert words(events) == "It is sunny in Rome."
    created = next(event for event in events if event["type"] == "response.created")["response"]
    assert created["chat_history"][-1] == {"role": "user", "content": "How is the weather?"}
    assert created["voice"] == "tara"
    heard = [event for event in events if event["type"].endswith("transcription.delta")]
    assert 0 <= heard[0]["start_time"] < 1
    assert host.script.thinker.last[-2:] == [
        ("assistant", "Good day to you."),
        ("user", "How is the weather?"),
    ]
    assert open_page.chat == [
        ("assistant", " Good day to you."),
        ("user", "How is the weather?"),
        ("assistant", " It is sunny in Rome."),
    ]
    assert open_page.shown_errors == []
    assert len(open_page.sound) > 48_000 * 0.5
    assert np.abs(open_page.sound).max() > 0.01


@pytest.mark.slow
def test_a_recording_in_webm_is_heard_as_well(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    open_page.say("How is the weather?", container="webm")
    open_page.answer()
    assert host.script.thinker.last[-1] == ("user", "How is the weather?")


@pytest.mark.slow
def test_a_robot_without_opus_is_heard_as_well(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    open_page.send("bridge.resume_session", reason="ui_connect_resume")
    sound = host.script.speech.say("How is the weather?") + silence(700)
    floats = (np.frombuffer(sound, "<i2") / 32768).astype("<f4").tobytes()
    for data, format in ((sound, "int16"), (floats, "float32")):
        for start in range(0, len(data), 9_600):
            encoded = base64.b64encode(data[start : start + 9_600]).decode()
            open_page.send("unmute.input_audio_buffer.append_pcm", audio=encoded, format=format)
        open_page.answer()
        assert host.script.thinker.last[-1] == ("user", "How is the weather?")


@pytest.mark.slow
@pytest.mark.parametrize("container", ["ogg", "webm"])
def test_what_is_said_while_it_connects_is_not_answered_before_the_greeting(
    page: Open, host: Host, container: str
) -> None:
    recording = recorded(
        host.script.speech.say("Is this thing on?")
        + silence(2_000)
        + host.script.speech.say("How is the weather?")
        + silence(700),
        container,
    )
    host.script.thinker.answers = [["Good day to you."], ["It is sunny in Rome."]]
    open_page = page(begins=False)
    half = len(recording) // 2
    for piece in recording[:half]:
        open_page.send_audio(piece)
    open_page.begin()
    assert words(open_page.answer()) == "Good day to you."
    for piece in recording[half:]:
        open_page.send_audio(piece)
    assert words(open_page.answer()) == "It is sunny in Rome."
    assert host.script.recognizer.heard == ["How is the weather?"]


def test_what_the_recorder_had_before_is_not_heard(page: Open, host: Host) -> None:
    left_over = host.script.speech.say("This was said to somebody else.") + silence(700)
    open_page = page(begins=False, left_over=left_over)
    open_page.begin()
    open_page.answer()
    open_page.say("How is the weather?")
    open_page.answer()
    assert host.script.recognizer.heard == ["How is the weather?"]
    assert open_page.shown_errors == []


@pytest.mark.slow
def test_audio_and_words_come_as_they_are_heard_and_not_long_before(
    page: Open, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(14)
    host.script.thinker.answers = [LONG]
    open_page = page()
    open_page.until("response.audio.delta")
    ahead_ms = []
    while open_page.events[-1]["type"] != "response.audio.done":
        open_page.next()
        ahead_ms.append(open_page.unheard_ms)
    assert max(ahead_ms) < 1000 * unmute_frontend.LEAD_S + 2 * unmute_frontend.CHUNK_MS
    assert words(open_page.events) == "".join(LONG)
    places = [index for index, event in enumerate(open_page.events) if event["type"] == "response.text.delta"]
    assert places[-1] - places[0] > 10  # the last word is not told with the first


@pytest.mark.slow
def test_the_human_cuts_in(page: Open, host: Host, upstream: Upstream) -> None:
    upstream.events = whole(14)
    host.script.thinker.answers = [["Hello."], LONG, ["All right."]]
    open_page = page()
    open_page.answer()
    open_page.say("Tell me a story.")
    open_page.until("response.created")
    open_page.until("response.audio.delta")
    open_page.quiet(0.8)
    open_page.hear(host.script.speech.say("No wait, stop that.", 960))
    events = open_page.until("input_audio_buffer.speech_started")
    assert events[-2]["type"] == "unmute.interrupted_by_vad"
    assert open_page.unheard_ms < 1000 * unmute_frontend.LEAD_S + 2 * unmute_frontend.CHUNK_MS
    assert all(not event["type"].startswith("response.") for event in open_page.quiet(0.5))
    open_page.hear(silence(700))
    events = open_page.answer()
    assert words(events) == "All right."
    story, stop = host.script.thinker.last[-2:]
    assert stop == ("user", "No wait, stop that.")
    assert story[0] == "assistant"
    assert "".join(LONG).startswith(story[1])
    assert len(story[1]) < len("".join(LONG))
    assert open_page.shown_errors == []


@pytest.mark.slow
def test_it_speaks_again_after_seven_seconds_of_silence_but_not_for_ever(page: Open, host: Host) -> None:
    host.script.thinker.answers = [
        ["Hello."],
        ["Are you there?"],
        ["Still there?"],
        ["Well then."],
        ["What?"],
    ]
    open_page = page()
    open_page.answer()
    for said in ("Are you there?", "Still there?", "Well then."):
        open_page.hear(silence(6_500))
        assert "response.created" not in types(open_page.quiet(0.2))
        open_page.hear(silence(1_000))
        assert words(open_page.answer()) == said
        assert "said nothing" in host.script.thinker.last[-1][1]
    open_page.hear(silence(9_000))
    assert "response.created" not in types(open_page.quiet(0.3))
    open_page.say("Here I am.")
    assert words(open_page.answer()) == "What?"
    open_page.hear(silence(7_500))
    assert words(open_page.answer()) == "What?"


@pytest.mark.slow
def test_after_a_goodbye_the_conversation_is_over(page: Open, host: Host) -> None:
    host.script.thinker.answers = [["Hello."], ["It was nice to talk to you. Bye!"]]
    open_page = page()
    open_page.answer()
    open_page.say("I have to go.")
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            open_page.next()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000
    assert open_page.unheard_ms == 0
    assert words(open_page.events).endswith("Bye!")


# Who it talks to


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("constant", ["You are a pirate."]),
        ("smalltalk", ["good company", "For example", "Monday, 30 November 2026, 09:05"]),
        ("guess_animal", ["yes or no", "It is the"]),
        ("quiz_show", ["quiz show", "1. ", "5. ", "(Answer: "]),
        ("news", ["cannot look up today's news", "Monday, 30 November 2026"]),
        ("unmute_explanation", ["Orpheus", "Kyutai"]),
    ],
)
def test_each_character_gives_the_language_model_instructions(
    character: Character, expected: list[str]
) -> None:
    now = datetime(2026, 11, 30, 9, 5)
    text = "You are a pirate." if character == "constant" else None
    prompt = system_prompt(character, text, ["fr"], now)
    for words in [*expected, "spoken aloud", "Speak French", "Bye!"]:
        assert words in prompt
    assert len(prompt) < 2_500  # an embedded model reads it at 150 tokens a second


def test_a_character_without_a_text_is_good_company() -> None:
    for text in (None, "", "  "):
        assert "good company" in system_prompt("constant", text, ["en", "de"])
    assert "Speak English or German" in system_prompt("constant", None, ["en", "de"])


@pytest.mark.parametrize(
    ("instructions", "voice", "named"),
    [
        ({"type": "constant", "text": "You are a pirate.", "language": "en/fr"}, "barack_demo.wav", "leo"),
        pytest.param("You are a pirate.", "who/is/this.wav", "tara", marks=pytest.mark.slow),
    ],
)
def test_the_language_model_and_the_voice_are_those_of_the_session(
    page: Open, host: Host, instructions: Any, voice: str, named: str
) -> None:
    open_page = page(instructions=instructions, voice=voice)
    assert open_page.until("response.created")[-1]["response"]["voice"] == named
    open_page.until("response.text.delta")
    system = host.script.thinker.asked[-1][0]
    assert system.role == "system"
    assert "You are a pirate." in system.content


@pytest.mark.slow
def test_a_session_may_change_and_is_greeted_once(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    open_page.begin({"type": "constant", "text": "You are a pirate."}, "dan")
    assert "response.created" not in types(open_page.quiet(0.3))
    open_page.say("How is the weather?")
    assert open_page.until("response.created")[-1]["response"]["voice"] == "dan"
    assert "pirate" in host.script.thinker.asked[-1][0].content


# What begins like it


def test_nothing_is_sent_before_its_first_message(page: Open) -> None:
    open_page = page(begins=False)
    assert open_page.quiet(0.4) == []
    open_page.begin()


def test_a_client_of_openais_that_begins_the_same_way_is_served_as_before(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unmute_frontend, "FIRST_MESSAGE_S", 0.3)
    url = host.url.replace("http", "ws", 1) + "/v1/realtime"
    with connect(url, proxy=None, subprotocols=[Subprotocol("realtime")]) as connection:
        assert json.loads(connection.recv(5))["type"] == "session.created"
    for first in (
        {"type": "session.update", "session": {"type": "realtime", "instructions": "Be kind."}},
        {"type": "session.update", "session": None},
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(4_800)).decode()},
        {"type": ["unmute."]},
        [],
    ):
        with connect(url, proxy=None, subprotocols=[Subprotocol("realtime")]) as connection:
            connection.send(json.dumps(first))
            assert json.loads(connection.recv(5))["type"] == "session.created"
    with connect(url, proxy=None, subprotocols=[Subprotocol("realtime")]) as connection:
        connection.send(b"\x01\x02")
        assert json.loads(connection.recv(5))["type"] == "session.created"
        assert json.loads(connection.recv(5))["type"] == "error"


# What goes wrong


def test_garbage_is_answered_and_the_conversation_goes_on(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    for raw in (
        "not JSON",
        "[]",
        b"\x01\x02",
        '{"type": "response.create"}',
        '{"type": null}',
        '{"type": "input_audio_buffer.append"}',
        '{"type": "input_audio_buffer.append", "audio": "%%%"}',
        '{"type": "input_audio_buffer.append", "audio": 7}',
        '{"type": "session.update"}',
        '{"type": "session.update", "session": {"instructions": {"type": "astronaut"}}}',
        '{"type": "session.update", "session": {"instructions": {"text": 7}, "allow_recording": true}}',
        json.dumps({"type": "session.update", "session": {"instructions": "x" * 70_000}}),
        json.dumps({"type": "x" * 900_000}),
    ):
        open_page.socket.send(raw)
        error = open_page.until("error")[-1]["error"]
        assert error["type"] == "invalid_request_error"
        assert len(error["message"]) < 400
    open_page.say("How is the weather?")
    open_page.answer()
    assert host.script.thinker.last[-1] == ("user", "How is the weather?")


@pytest.mark.slow
def test_audio_that_cannot_be_read_is_named(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    open_page.send_audio(b"\0\0\0\x20ftypiso5" + bytes(600))
    assert "MP4" in open_page.until("error")[-1]["error"]["message"]
    noise = np.random.default_rng(1).bytes(4_000)
    for _ in range(10):
        open_page.send_audio(noise)
    assert "cannot be read" in open_page.until("error")[-1]["error"]["message"]
    open_page.say("How is the weather?")
    open_page.answer()
    assert host.script.thinker.last[-1] == ("user", "How is the weather?")


@pytest.mark.slow
def test_a_message_that_is_too_long_ends_the_connection(page: Open) -> None:
    open_page = page()
    open_page.answer()
    with pytest.raises(ConnectionClosed) as closed:
        open_page.send_audio(bytes(2_000_000))
        while True:
            open_page.next()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.slow
def test_hours_of_silence_in_one_message_hold_up_nobody(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    open_page.send_audio(hours())
    for _ in range(10):
        started_s = time.monotonic()
        assert httpx.get(f"{host.url}/live", trust_env=False).status_code == 200
        assert time.monotonic() - started_s < 2
    assert "longer than 60 s" in open_page.until("error")[-1]["error"]["message"]


@pytest.mark.slow
def test_a_page_that_is_closed_in_mid_answer_leaves_nothing_behind(
    page: Open, host: Host, upstream: Upstream
) -> None:
    upstream.events, upstream.hang_after = whole(40), 10
    open_page = page()
    open_page.until("response.audio.delta")
    open_page.close()
    eventually(lambda: host.service.admission.active == 0 and not host.script.thinker.running)
    eventually(lambda: upstream.left == 1)
    assert host.service.codec_report()["open_streams"] == 0


@pytest.mark.slow
def test_a_language_model_that_fails_is_told_and_apologised_for(page: Open, host: Host) -> None:
    host.script.thinker.answers = [
        ["Hello."],
        [UpstreamError("The LLM cannot be reached: start it.")],
        ["Fine."],
    ]
    open_page = page()
    open_page.answer()
    open_page.say("How is the weather?")
    events = open_page.answer()
    assert open_page.shown_errors == ["The LLM cannot be reached: start it."]
    assert words(events).startswith("Sorry")
    open_page.say("And now?")
    assert words(open_page.answer()) == "Fine."


@pytest.mark.slow
def test_a_recognizer_that_fails_is_told(page: Open, host: Host) -> None:
    open_page = page()
    open_page.answer()
    host.script.recognizer.fails = True
    open_page.say("How is the weather?")
    open_page.until("error")
    assert open_page.shown_errors == ["The recogniser is away; try again."]
    host.script.recognizer.fails = False
    open_page.say("And now?")
    open_page.answer()


def test_one_too_many_is_closed_with_1011_and_the_reason(page: Open, other: Host) -> None:
    key = "/v1/realtime?api_key=secret-key"
    first = page(at=other, path=key)
    second = page(at=other, path=key, begins=False)
    second.send("session.update", session={"allow_recording": False})
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            second.next()
    assert second.events[-1]["error"]["type"] == "fatal"
    assert "limit of 1 conversation" in second.shown_errors[0]
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert "limit of 1 conversation" in closed.value.rcvd.reason
    first.close()


def test_an_agent_that_cannot_be_loaded_closes_with_1011_and_the_reason(
    page: Open, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise RuntimeError("as scripted")

    monkeypatch.setattr(host.agent, "loaded", fails)
    open_page = page(begins=False)
    open_page.send("session.update", session={"allow_recording": False})
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            open_page.next()
    assert open_page.events[-1]["error"]["type"] == "fatal"
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert "fault of the server" in closed.value.rcvd.reason


# Before it connects


def test_the_page_of_another_origin_may_read_health_and_voices_without_a_key(other: Host) -> None:
    origin = "http://localhost:3000"
    eventually(lambda: httpx.get(f"{other.url}/v1/health", trust_env=False).json()["ok"], within_s=10)
    health = httpx.get(f"{other.url}/v1/health", headers={"Origin": origin}, trust_env=False)
    assert health.headers["access-control-allow-origin"] == origin
    assert health.json() == {
        "tts_up": True,
        "stt_up": True,
        "llm_up": True,
        "voice_cloning_up": False,
        "ok": True,
    }
    voices = httpx.get(f"{other.url}/v1/voices", headers={"Origin": origin}, trust_env=False)
    assert voices.headers["access-control-allow-origin"] == origin
    listed = voices.json()
    assert [voice["source"]["path_on_server"] for voice in listed][:3] == ["tara", "leah", "jess"]
    # By the page's rules: names tell voices apart, and the first is drawn from those without another language.
    assert len({voice["name"] for voice in listed}) == len(listed)
    assert all(voice["instructions"].get("language", "en") == "en" for voice in listed)
    assert {voice["instructions"]["type"] for voice in listed} == set(CHARACTERS) - {"constant"}
    assert all(voice["good"] is True and voice["source"]["source_type"] == "file" for voice in listed)
    # The pair's own list stays.
    assert httpx.get(f"{other.url}/v1/audio/voices", trust_env=False).json()["voices"][0]["id"] == "tara"


def test_asking_for_health_is_a_probe_and_fills_no_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "orpheus.server.request")
    assert httpx.get(f"{host.url}/v1/health", trust_env=False).status_code == 200

    def levels() -> list[int]:
        fields = ((record, getattr(record, "fields", {})) for record in caplog.records)
        return [record.levelno for record, told in fields if told.get("route") == "/v1/health"]

    eventually(levels)
    assert levels() == [logging.DEBUG]


def test_health_says_within_three_seconds_what_is_down(
    start_host: Callable[..., Host], upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unmute_frontend.CHECK_S <= 2.5
    monkeypatch.setattr(unmute_frontend, "CHECK_S", 0.3)
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # accepts and says nothing
        port = deaf.getsockname()[1]
        host = start_host(
            stack, llm_url=f"http://127.0.0.1:{port}/v1", stt_url="http://127.0.0.1:9/v1", max_conversations=1
        )
        upstream.health = 503
        started_s = time.monotonic()
        health = httpx.get(f"{host.url}/v1/health", trust_env=False, timeout=10)
        assert time.monotonic() - started_s < 3
        assert health.status_code == 200
        assert health.json() == {
            "tts_up": False,
            "stt_up": False,
            "llm_up": False,
            "voice_cloning_up": False,
            "ok": False,
        }
