"""Telephone calls over a model of Twilio, which fails where Twilio does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from orpheus.agent.history import History, Item
from orpheus.agent.response import APOLOGIES
from orpheus.agent.sockets import twilio
from orpheus.agent.sockets.realtime_schema import Session
from orpheus.agent.sockets.twilio import GREETINGS, NOT_HEARD
from orpheus.errors import UpstreamError
from orpheus.voices import VOICES
from tests.agent.conftest import Host
from tests.support.agent import silence
from tests.support.twilio import STREAM, Call, calling
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

TOKEN = "12345678901234567890123456789012"
LONG = ["One two three four five six seven. ", "Eight nine ten eleven twelve thirteen. ", "The end of it."]

pytestmark = pytest.mark.anyio


def signature(url: str, token: str = TOKEN) -> dict[str, str]:
    """As twilio's own RequestValidator computes it: it gave the first of those below (twilio 9.13.0, 2026-11-30)."""
    digest = hmac.digest(token.encode(), url.encode(), hashlib.sha1)
    return {"X-Twilio-Signature": base64.b64encode(digest).decode()}


async def ended(host: Host, call: Call) -> None:
    """The agent has answered, and the caller has heard all of it."""
    await call.until(lambda: not host.script.thinker.running)
    await call.until(lambda: host.service.admission.active == 0)
    await call.until(lambda: not call.playing)


async def test_a_call_is_greeted_first_and_a_question_answered(host: Host, upstream: Upstream) -> None:
    upstream.events = whole(5)  # 0.4 s a segment
    async with calling(host.url, greeting="Acme, good day!", instructions="Be brief.", From="+1555") as call:
        await call.until(lambda: len(call.received) > 1000)
        assert host.script.thinker.asked == []
        assert "Acme, good day!" in upstream.requests[-1]["prompt"]
        await ended(host, call)
        heard = len(call.played)
        assert heard == len(call.received) > 2000
        # What Twilio may send besides is let be.
        await call.send("media", media={"track": "outbound", "payload": "AAAA" * 4000})
        await call.send("something.new", something={})
        await call.send("mark", mark={"name": "of somebody else"})
        call.say(host.script.speech.say("What is the time?"))
        await call.until(lambda: len(call.received) > heard)
        await ended(host, call)
        assert call.cleared == 0
        assert len(call.played) == len(call.received)
        assert host.script.thinker.last == [
            ("assistant", "Acme, good day!"),
            ("user", "What is the time?"),
        ]
        assert host.script.thinker.asked[-1][0].content == "Be brief."
        await call.send("stop", stop={"accountSid": "AC", "callSid": "CA"})
        await call.until(lambda: call.close_code is not None)
        assert call.close_code == 1000


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds at which what was said was cut off in the history, each time it was."""
    seen: list[float] = []
    cut = History.cut

    def note(self: History, id: str, at_s: float) -> Item:
        seen.append(at_s)
        return cut(self, id, at_s)

    monkeypatch.setattr(History, "cut", note)
    return seen


async def test_at_a_barge_in_the_buffer_is_emptied_and_the_history_is_what_twilio_played(
    host: Host, upstream: Upstream, cuts: list[float]
) -> None:
    upstream.events = whole(40)  # 3.4 s a segment
    host.script.thinker.answers = [LONG, ["All right."]]
    async with calling(host.url, greeting="") as call:
        call.say(host.script.speech.say("Tell me a story."))
        await call.until(lambda: len(call.played) > 8000 * 0.4)
        call.say(host.script.speech.say("No wait, stop that.") + silence(200))
        await call.until(lambda: call.cleared)
        assert call.dropped > 4000  # it had more
        assert cuts[-1] == pytest.approx(len(call.played) / 8000, abs=0.15)
        await call.until(lambda: len(host.script.thinker.asked) == 2)
        said = host.script.thinker.last
        assert [role for role, _ in said] == ["user", "assistant", "user"]
        assert 0 < len(said[1][1].split()) <= 4
        assert "One two three four".startswith(said[1][1])


@pytest.mark.parametrize(
    ("given", "language"), [("en-US", "en"), ("pt_BR", "pt"), (" FR ", "fr"), ("yue", "yue"), ("", None)]
)
def test_a_language_may_have_its_country_as_elsewhere_in_twiml(given: str, language: str | None) -> None:
    assert twilio._config(Session(), {"language": given}).language == language


def heard(answer: list[tuple[str, float]], *returned: str) -> dict[str, float]:
    """Milliseconds heard of each item, after 100 ms pieces of which these were played a moment ago."""
    playback = twilio._Playback()
    for item, end_ms in answer:
        playback.add(item, end_ms - 100, end_ms)
    for name in returned:
        playback.returned(name)
    return playback.clear()


def test_the_marks_that_came_back_say_what_was_heard() -> None:
    answer = [("a", 100.0), ("a", 200.0), ("b", 100.0), ("b", 200.0), ("c", 100.0)]
    assert heard(answer) == {}  # not known: the server's estimate holds
    assert heard(answer, "orpheus-1") == pytest.approx({"a": 100.0, "b": 0.0, "c": 0.0}, abs=50)
    assert heard(answer, "orpheus-1", "orpheus-3", "nonsense", "orpheus-1") == pytest.approx(
        {"b": 100.0, "c": 0.0}, abs=50
    )
    assert heard(answer, "orpheus-5") == {"c": 100.0}  # all that went before was played


def test_marks_that_come_back_because_the_buffer_was_emptied_mean_nothing() -> None:
    playback = twilio._Playback()
    names = [playback.add("a", start, start + 100) for start in (0.0, 100.0, 200.0)]
    playback.returned(names[0])
    assert playback.clear()["a"] < 200
    for name in names:
        playback.returned(name)
    assert playback.clear() == {}
    first = playback.add("b", 0.0, 100.0)
    playback.returned(first)
    assert playback.clear() == {"b": 100.0}


@pytest.mark.slow
async def test_the_history_holds_what_the_marks_say_and_not_what_the_server_guesses(
    host: Host, upstream: Upstream, cuts: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.events = whole(40)
    host.script.thinker.answers = [LONG, ["All right."]]
    async with calling(host.url, greeting="") as call:
        began_s: list[float] = []
        play = call._play

        async def late() -> None:
            """A network that holds the audio up by more than a second."""
            if call.playing and not began_s:
                began_s.append(time.monotonic())
            if began_s and time.monotonic() - began_s[0] > 1.2:
                await play()

        monkeypatch.setattr(call, "_play", late)
        call.say(host.script.speech.say("Tell me a story."))
        await call.until(lambda: len(call.played) > 1600)
        call.say(host.script.speech.say("No wait, stop that.") + silence(200))
        await call.until(lambda: call.cleared)
        guess, known = cuts[-2:]
        assert known == pytest.approx(len(call.played) / 8000, abs=0.15)
        assert guess > known + 0.9


async def test_keys_pressed_silence_the_agent_and_are_told_to_it(host: Host, upstream: Upstream) -> None:
    upstream.events = whole(40)
    async with calling(host.url) as call:
        await call.until(lambda: len(call.played) > 800)
        for digit in ("4", "nonsense", "2", "#"):
            await call.send("dtmf", dtmf={"track": "inbound_track", "digit": digit})
        await call.until(lambda: host.script.thinker.asked)
        assert call.cleared == 1
        assert host.script.thinker.last[-1] == ("user", "(The caller pressed 4 2 # on the telephone.)")


@pytest.mark.slow
@pytest.mark.parametrize(("fails", "said"), [("stt", NOT_HEARD["en"]), ("llm", APOLOGIES["en"])])
async def test_a_stage_that_fails_is_heard_of_and_the_call_goes_on(
    host: Host, upstream: Upstream, fails: str, said: str
) -> None:
    upstream.events = whole(6)
    host.script.recognizer.fails = fails == "stt"
    if fails == "llm":
        host.script.thinker.answers = [[UpstreamError("It is away.")], ["Hello there."]]
    async with calling(host.url, greeting="") as call:
        call.say(host.script.speech.say("What is the time?"))
        await call.until(lambda: call.received)
        assert said.split(".")[0] in upstream.requests[0]["prompt"]
        host.script.recognizer.fails = False
        await ended(host, call)
        call.say(silence(200) + host.script.speech.say("And now?"))
        await call.until(lambda: any("Hello there" in request["prompt"] for request in upstream.requests))
        assert host.script.thinker.last[-1] == ("user", "And now?")


@pytest.mark.parametrize(
    "messages",
    [
        ["nonsense"],
        [b"\0\1"],
        ["[]"],
        ['{"event": 3}'],
        ['{"event": "media", "media": {"payload": "//8="}}'],  # before start
        ['{"event": "start"}'],
        ['{"event": "start", "start": {"streamSid": "MZ", "customParameters": [1]}}'],
        ['{"event": "start", "start": {"streamSid": "MZ", "mediaFormat": {"encoding": "audio/l16"}}}'],
        ["start", '{"event": "media"}'],
        ["start", '{"event": "media", "media": {"payload": "%%%"}}'],
        ["start", '{"event": "media", "media": {"payload": 3}}'],
        ["start", '{"event": "mark", "mark": "x"}'],
        ["start", '{"event": "dtmf", "dtmf": []}'],
        ["start", "[" * 60_000],
        ['{"event": "start", "start": {"streamSid": "MZ", "customParameters": {"voice": "nobody"}}}'],
        ['{"event": "start", "start": {"streamSid": "MZ", "customParameters": {"language": 3}}}'],
    ],
)
def test_what_twilio_never_sends_ends_the_call_with_a_reason(host: Host, messages: list[str | bytes]) -> None:
    with opened(host) as socket:
        for message in messages:
            socket.send(START if message == "start" else message)
        assert closed(socket)[0] == 1008
    eventually(lambda: not host.agent._since_s)


async def test_a_message_that_is_too_long_and_a_line_that_breaks_leave_nothing_behind(
    host: Host, upstream: Upstream
) -> None:
    upstream.events, upstream.hang_after = whole(40), 10
    with opened(host) as socket:
        socket.send(START)
        socket.send(json.dumps({"event": "media", "media": {"payload": "/" * (1 << 20)}}))
        assert closed(socket)[0] == 1009
    async with calling(host.url) as call:
        await call.until(lambda: len(call.received) > 800)
        call.socket.transport.abort()
    eventually(lambda: host.service.admission.active == 0 and not host.agent._since_s)
    assert host.service.codec_report()["open_streams"] == 0


# Who may call


START = json.dumps({"event": "start", "start": {"streamSid": STREAM, "customParameters": {"greeting": ""}}})


def opened(host: Host, path: str = "/v1/twilio", **headers: str) -> ClientConnection:
    return connect(host.url.replace("http", "ws", 1) + path, proxy=None, additional_headers=headers)


def closed(socket: ClientConnection) -> tuple[int, str]:
    """The close code and its reason, whatever comes before them."""
    with pytest.raises(ConnectionClosed):
        while True:
            socket.recv(10)
    return socket.close_code or 0, socket.close_reason or ""


def asked(host: Host, path: str = "/v1/twilio", key: Any = None, **headers: str) -> str:
    """ "" if the call is answered, else why not."""
    parameters = {"greeting": "Hello."} if key is None else {"greeting": "Hello.", "api_key": key}
    try:
        socket = opened(host, path, **headers)
    except InvalidStatus as refused:
        return str(json.loads(refused.response.body)["error"]["message"])
    with socket:
        start = {"streamSid": STREAM, "customParameters": parameters}
        socket.send(json.dumps({"event": "start", "start": start}))
        try:
            return "" if '"media"' in str(socket.recv(10)) else "something else"
        except ConnectionClosed:
            return socket.close_reason or ""


@pytest.fixture(scope="module")
def locked(start_host: Callable[..., Host]) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start_host(stack, api_keys="secret-key", twilio_auth_token=TOKEN)


@pytest.fixture(scope="module")
def signed_only(start_host: Callable[..., Host]) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start_host(stack, twilio_auth_token=TOKEN)


def test_a_key_comes_as_a_parameter_a_header_or_in_the_query(locked: Host, upstream: Upstream) -> None:
    assert asked(locked, key="secret-key") == ""
    assert asked(locked, "/media-stream", key="secret-key") == ""
    assert asked(locked, **{"x-api-key": "secret-key"}) == ""
    assert asked(locked, "/v1/twilio?api_key=secret-key") == ""
    minted = httpx.post(
        f"{locked.url}/v1/realtime/client_secrets",
        headers={"x-api-key": "secret-key"},
        json={"session": {"audio": {"output": {"voice": "leo"}}}},
        trust_env=False,
    ).json()["value"]
    assert asked(locked, key=minted) == ""
    assert "leo: Hello." in upstream.requests[-1]["prompt"]
    assert asked(locked, f"/v1/twilio?api_key={minted}") == ""
    assert "leo: Hello." in upstream.requests[-1]["prompt"]
    for wrong in ("wrong", "", None, 3, ["secret-key"]):
        assert "ORPHEUS_API_KEYS" in asked(locked, key=wrong)
    eventually(lambda: not locked.agent._since_s)


def test_nothing_is_heard_or_held_before_the_key_is_there(
    locked: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(locked) as first, opened(locked) as second:
        assert locked.agent._since_s == []
        first.send(json.dumps({"event": "media", "media": {"payload": "AAAA"}}))
        assert "first" in closed(first)[1]
        monkeypatch.setattr(twilio, "START_S", 0.1)
        with opened(locked) as third:
            assert "within 0.1 s" in closed(third)[1]
        second.send(START)
        assert closed(second)[0] == 1008


def test_a_key_at_its_limit_has_no_second_call_whichever_way_it_comes(
    start_host: Callable[..., Host],
) -> None:
    start = {"streamSid": STREAM, "customParameters": {"api_key": "secret-key"}}
    with ExitStack() as stack:
        host = start_host(stack, api_keys="secret-key", max_requests_per_key=1)
        with opened(host) as socket:
            socket.send(json.dumps({"event": "start", "start": start}))
            socket.recv(10)
            assert "at its limit" in asked(host, key="secret-key")
            assert "at its limit" in asked(host, **{"x-api-key": "secret-key"})


def test_twilios_signature_stands_for_a_key(locked: Host, signed_only: Host) -> None:
    # Of the address in the TwiML, with wss, with or without a port.
    assert signature("wss://agent.example.com/v1/twilio") == {
        "X-Twilio-Signature": "tGYTN10YdKzPMvtHQrK5yKWZaEI="
    }
    for host in (locked, signed_only):
        own = host.url.removeprefix("http://")
        for url in (f"wss://{own}/v1/twilio", f"wss://{own.partition(':')[0]}/v1/twilio"):
            assert asked(host, **signature(url)) == ""
        assert asked(host, "/v1/twilio/", **signature(f"wss://{own}/v1/twilio/")) == ""
        public = {"X-Forwarded-Host": "agent.example.com"}
        assert asked(host, **public, **signature("wss://agent.example.com/v1/twilio")) == ""
        assert asked(host, **public, **signature("wss://agent.example.com:443/v1/twilio")) == ""
        for wrong in (
            signature(f"wss://{own}/v1/twilio", token="another"),
            signature(f"wss://{own}/media-stream"),
            signature(f"https://{own}/v1/twilio"),
            {"X-Twilio-Signature": "nonsense"},
            {"X-Twilio-Signature": ""},
        ):
            assert "ORPHEUS_TWILIO_AUTH_TOKEN" in asked(host, **wrong)
        assert "ORPHEUS_TWILIO_AUTH_TOKEN" in asked(host)
    assert "ORPHEUS_TWILIO_AUTH_TOKEN" in asked(signed_only, key="secret-key")


def test_without_keys_and_without_a_token_anyone_may_call(host: Host) -> None:
    assert asked(host) == ""
    assert asked(host, **{"X-Twilio-Signature": "whatever"}) == ""


def test_one_call_too_many_is_told_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.agent, "limit", 1)
    with opened(host) as first, opened(host) as second:
        first.send(START)
        eventually(lambda: host.agent._since_s)
        second.send(START)
        code, reason = closed(second)
        assert code == 1013
        assert "limit of 1 conversation" in reason


def test_what_it_says_by_itself_is_there_in_every_language_of_a_voice() -> None:
    assert set(GREETINGS) == set(NOT_HEARD) == {voice.language for voice in VOICES.values()}
