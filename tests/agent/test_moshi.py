"""Moshi's protocol over a model of its page, and with Moshi's own program, unmodified."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from orpheus.agent import events as told
from orpheus.agent.events import Config
from orpheus.agent.opus import OggOpusWriter
from orpheus.agent.sockets import moshi
from orpheus.agent.sockets.realtime_schema import Session
from orpheus.agent.sockets.wire import by_voice_alone
from tests.agent.conftest import Host
from tests.support.agent import silence
from tests.support.environments import python_with
from tests.support.moshi import LOUD, OUT_RATE, chatting
from tests.support.upstream import Upstream, whole
from tests.support.waiting import counting_turns, eventually

LONG = ["One two three four five six seven. ", "Eight nine ten eleven twelve thirteen. ", "The end of it."]

pytestmark = pytest.mark.anyio


async def test_a_question_is_answered_while_the_stream_runs_on_both_ways(
    host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(8)
    async with chatting(host.url) as page:
        await page.until(lambda: page.player.received_s > 0.2)
        assert page.kinds[:3] == [0, 4, 1]
        assert page.metadata[0]["voice"] == "tara"
        began_s, before_s = time.monotonic(), page.player.received_s
        page.speak(host.script.speech.say("What is the time?"))
        await page.until(lambda: page.text == " Hello there, my friend.")
        await page.until(lambda: page.loud_s > 0.3)
        assert host.script.thinker.last == [("user", "What is the time?")]
        assert all(piece.startswith(" ") for piece in page.pieces)
        # Neither ahead of real time, which the page would throw away, nor behind it.
        assert page.player.received_s - before_s == pytest.approx(time.monotonic() - began_s, abs=0.5)
        assert page.player.dropped_s < 0.5
        assert page.longest_quiet_s < 5
        assert {*page.kinds} == {0, 1, 2, 4}


async def test_a_text_of_kind_7_is_said_word_for_word_at_once(host: Host, upstream: Upstream) -> None:
    upstream.events = whole(4)
    async with chatting(host.url, "/api") as page:
        await page.send(7, b"Excuse me, a call.")
        await page.send(7, b"It is for you.")
        await page.until(lambda: page.text == " Excuse me, a call. It is for you.")
        await page.until(lambda: page.loud_s > 0.2)
        assert host.script.thinker.asked == []
        await page.send(7, b"\xff\xfe")
        await page.until(lambda: page.errors)
        assert "UTF-8" in page.errors[0]


async def test_nothing_is_made_to_be_said_while_the_agent_is_paused(host: Host, upstream: Upstream) -> None:
    async with chatting(host.url) as page:
        await page.send(3, b"\2")
        await page.send(7, b"Nobody hears this.")
        await page.until(lambda: page.errors)
        assert "paused" in page.errors[0]
        assert upstream.requests == []
        await page.send(3, b"\0")
        await page.send(7, b"But this.")
        await page.until(lambda: page.text == " But this.")


@pytest.mark.slow
async def test_a_text_of_kind_7_takes_the_place_of_an_answer(host: Host, upstream: Upstream) -> None:
    upstream.events = whole(60)
    host.script.thinker.answers = [LONG]
    async with chatting(host.url) as page:
        page.speak(host.script.speech.say("Tell me a story."))
        await page.until(lambda: page.loud_s > 0.2)
        before = len(page.pieces)
        upstream.events = whole(4)
        await page.send(7, "Désolé, un appel.".encode())
        await page.until(lambda: page.text.endswith(" appel."))
        assert "".join(page.pieces[before:]) == " Désolé, un appel."
        assert page.errors == []


@pytest.mark.slow
async def test_at_a_barge_in_the_sound_stops_at_once_and_the_next_answer_is_to_what_was_said(
    host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(40)
    host.script.thinker.answers = [LONG, [1.0, "All right."]]
    async with chatting(host.url) as page:
        page.speak(host.script.speech.say("Tell me a story."))
        await page.until(lambda: page.loud_s > 0.3)
        page.speak(host.script.speech.say("No wait, stop that.") + silence(200))
        await page.until(
            lambda: len(host.script.thinker.asked) == 2
        )  # of the three seconds sent ahead, nothing:
        assert np.max(np.abs(page.sound[-round(0.2 * OUT_RATE) :])) < LOUD
        roles = [role for role, _ in host.script.thinker.last]
        assert roles == ["user", "assistant", "user"]
        said = host.script.thinker.last[1][1]
        assert 0 < len(said.split()) <= 5
        assert LONG[0].startswith(said)
        await page.until(lambda: page.text.endswith(" All right."))


@pytest.mark.slow
async def test_the_query_says_who_the_agent_is(host: Host, upstream: Upstream) -> None:
    # What PersonaPlex's page sends.
    query = (
        "?text_temperature=0.7&text_topk=25&audio_temperature=0.8&audio_topk=250&pad_mult=0&text_seed=4711"
        "&audio_seed=815&repetition_penalty_context=64&repetition_penalty=1&voice_prompt=NATM1.pt&text_prompt="
        + quote("<system> You are a pirate. <system>")
    )
    async with chatting(host.url, query=query) as page:
        page.speak(host.script.speech.say("Who are you?"))
        await page.until(lambda: page.loud_s > 0.1)
        assert host.script.thinker.asked[-1][0].content == "You are a pirate."
        assert host.script.thinker.options[-1]["temperature"] == 0.7
        assert page.metadata[0]["voice"] == "dan"
        assert "dan: Hello" in upstream.requests[-1]["prompt"]


@pytest.mark.parametrize(
    ("query", "voice"),
    [
        ("", "tara"),
        ("voice_prompt=", "tara"),
        ("voice_prompt=leo", "leo"),
        ("voice_prompt=onyx", "zac"),
        ("voice_prompt=NATF0.pt", "tara"),
        ("voice_prompt=VARF4.pt", "zoe"),
        ("voice_prompt=varm3.PT", "leo"),
        ("voice_prompt=NATM0", "leo"),
        ("text_prompt=&temperature=0", "tara"),
        ("auth_id=x&email=a@b.c&unheard_of=1&seed=-1", "tara"),
    ],
)
def test_names_of_other_systems_find_a_voice(host: Host, query: str, voice: str) -> None:
    with connect(f"{host.url.replace('http', 'ws', 1)}/api/chat?{query}", proxy=None) as socket:
        assert socket.recv(10) == b"\0"
        about = socket.recv(10)
        assert isinstance(about, bytes)
        assert json.loads(about[1:])["voice"] == voice


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("voice_prompt=nobody.pt", "voice_prompt"),
        ("voice_prompt=../../etc/passwd", "voice_prompt"),
        ("voice_prompt=pierre", "voice_prompt"),
        ("text_temperature=hot", "text_temperature"),
        ("text_temperature=nan", "text_temperature"),
        ("text_temperature=-1", "text_temperature"),
        ("temperature=9", "temperature"),
        ("audio_topk=many", "audio_topk"),
        ("text_seed=inf", "text_seed"),
    ],
)
def test_what_the_query_has_wrong_is_refused_before_the_handshake(host: Host, query: str, param: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{host.url.replace('http', 'ws', 1)}/api/chat?{query}", proxy=None)
    assert refused.value.response.status_code == 400
    error = json.loads(refused.value.response.body)["error"]
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.slow
async def test_control_messages_end_a_turn_pause_the_agent_and_begin_anew(
    host: Host, upstream: Upstream
) -> None:
    async with chatting(host.url) as page:
        await page.send(3, b"\1")  # nobody speaks: there is no turn to end
        page.speak(host.script.speech.say("One moment please", 1600))
        await asyncio.sleep(0.8)
        await page.send(3, b"\1")
        await page.until(lambda: host.script.thinker.asked)
        assert host.script.thinker.last[0][1].startswith("One moment")
        await page.until(lambda: page.text.endswith("my friend."))
        await page.send(3, b"\2")
        heard = len(host.script.recognizer.heard)
        page.speak(host.script.speech.say("Nobody hears this."))
        await page.until(lambda: not page._voice)
        await page.send(3, b"\3")
        page.speak(silence(100) + host.script.speech.say("Hello again."))
        await page.until(lambda: ("user", "Hello again.") in host.script.thinker.last)
        assert host.script.thinker.last == [("user", "Hello again.")]
        assert "Nobody hears this." not in host.script.recognizer.heard[heard:]
        await page.send(3, b"\2")
        await page.send(3, b"\0")
        page.speak(silence(100) + host.script.speech.say("And again."))
        await page.until(lambda: ("user", "And again.") in host.script.thinker.last)
        assert page.errors == []


async def test_what_is_no_message_is_told_and_the_conversation_goes_on(host: Host) -> None:
    async with chatting(host.url) as page:
        for message in (b"\x08what", b"\xff", "text", b"\3", b"\3\x09", b"\1" + b"garbage" * 3000):
            before = len(page.errors)
            await page.socket.send(message)
            await page.until(lambda before=before: len(page.errors) > before)  # type: ignore[misc]
        for message in (b"", b"\0", b"\0" * 9, b"\2hello", b"\4{}", b"\5oh", b"\6", b"\1", b"\1OggS"):
            await page.socket.send(message)
        page.speak(silence(200) + host.script.speech.say("Still there?"))
        await page.until(lambda: host.script.thinker.asked)
        assert host.script.thinker.last == [("user", "Still there?")]
        assert len(page.errors) == 6
        assert all(re.search(r"[a-z]", error) for error in page.errors)


@pytest.mark.slow
async def test_pages_of_an_older_stream_before_the_first_are_skipped(host: Host, upstream: Upstream) -> None:
    old = OggOpusWriter()
    old.begin()
    async with chatting(host.url) as page:
        await page.send(1, old.write(np.zeros(4800, np.int16)))
        page.speak(host.script.speech.say("Are you there?"))
        await page.until(lambda: page.pieces)
        assert host.script.thinker.last == [("user", "Are you there?")]
        assert page.errors == []


async def test_oversize_and_broken_connections_leave_nothing_behind(host: Host, upstream: Upstream) -> None:
    with connect(f"{host.url.replace('http', 'ws', 1)}/api/chat", proxy=None) as socket:
        socket.send(b"\1" + bytes(1 << 20))
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(10)
        assert socket.close_code == 1009
    upstream.events, upstream.hang_after = whole(40), 10
    async with chatting(host.url) as page:
        await page.send(7, b"A long, long story.")
        await page.until(lambda: upstream.requests)
        page.socket.transport.abort()
    eventually(lambda: host.service.admission.active == 0 and not host.agent._since_s)
    assert host.service.codec_report()["open_streams"] == 0


@pytest.fixture(scope="module")
def locked(start_host: Callable[..., Host]) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start_host(stack, api_keys="secret-key", max_conversations=1)


def test_a_key_comes_in_the_query_as_moshis_own(locked: Host) -> None:
    url = f"{locked.url.replace('http', 'ws', 1)}/api/chat"
    minted = httpx.post(
        f"{locked.url}/v1/realtime/client_secrets", headers={"x-api-key": "secret-key"}, trust_env=False
    ).json()["value"]
    for query in ("auth_id=secret-key", "worker_auth_id=secret-key", f"api_key={minted}"):
        with connect(f"{url}?{query}", proxy=None) as socket:
            assert socket.recv(10) == b"\0"
            with pytest.raises(InvalidStatus) as full:
                connect(f"{url}?{query}", proxy=None)
            assert full.value.response.status_code == 429
        eventually(lambda: not locked.agent._since_s)
    for query in ("", "?auth_id=wrong"):
        with pytest.raises(InvalidStatus) as refused:
            connect(url + query, proxy=None)
        assert refused.value.response.status_code == 401


def test_an_ephemeral_key_brings_its_session(locked: Host) -> None:
    session = {"audio": {"output": {"voice": "leo"}, "input": {"turn_detection": None}}, "tools": []}
    minted = httpx.post(
        f"{locked.url}/v1/realtime/client_secrets",
        headers={"x-api-key": "secret-key"},
        json={"session": session},
        trust_env=False,
    ).json()["value"]
    url = f"{locked.url.replace('http', 'ws', 1)}/api/chat?auth_id={minted}"
    for query, voice in (("", "leo"), ("&voice_prompt=dan", "dan")):
        with connect(url + query, proxy=None) as socket:
            assert socket.recv(10) == b"\0"
            about = socket.recv(10)
            assert isinstance(about, bytes)
            assert json.loads(about[1:])["voice"] == voice
        eventually(lambda: not locked.agent._since_s)


def test_a_session_for_who_can_only_speak_and_listen_ends_turns_and_calls_nothing() -> None:
    silent = {"audio": {"input": {"turn_detection": None}}, "output_modalities": ["text"]}
    tool = {"type": "function", "name": "look"}
    config = by_voice_alone(Session().updated({**silent, "tools": [tool], "instructions": "Be kind."}))
    assert (config.turns.kind, config.turns.create_response) == ("server_vad", True)
    assert (config.modality, config.tools, config.instructions) == ("audio", (), "Be kind.")


@pytest.mark.slow
async def test_what_was_said_before_a_restart_is_not_answered_after_it(host: Host) -> None:
    host.script.recognizer.pause_s = 2.0
    async with chatting(host.url) as page:
        page.speak(host.script.speech.say("Who are you?", 480))
        await page.until(lambda: host.script.recognizer.running)
        await asyncio.sleep(0.8)  # the turn is over, and being recognised
        await page.send(3, b"\3")
        await page.until(lambda: not host.script.recognizer.running)
        await asyncio.sleep(0.3)
        assert host.script.thinker.asked == []
        assert page.errors == []


@pytest.mark.parametrize("interrupts", [True, False])
async def test_who_may_not_interrupt_the_agent_silences_nothing(host: Host, interrupts: bool) -> None:
    wire = moshi._Chat(host.agent, host.service, None, Config())  # type: ignore[arg-type]
    wire.tell(told.AudioAdded("resp", 0, "item", bytes([1]) * 2 * moshi.FRAME_SAMPLES))
    wire.tell(told.UserStarted("other", 0, interrupts))
    assert bool(wire._player.next()[1].any()) is not interrupts


async def test_audio_that_nobody_hears_lets_others_have_their_turn(host: Host) -> None:
    wire = moshi._Chat(host.agent, host.service, None, Config())  # type: ignore[arg-type]
    wire._paused = True
    audio = OggOpusWriter().write(np.zeros(20 * 24_000, np.int16))
    async with counting_turns() as turns:
        await wire._handle(None, moshi.Kind.AUDIO, audio)  # type: ignore[arg-type]
    assert turns.count > 15


# What moshi.client itself imports: all that moshi says it needs is its model's, torch and all.
PROGRAM = (
    "--no-deps", "moshi==0.2.13", "sphn==0.2.1", "numpy==2.4.6", "aiohttp==3.14.5", "aiohappyeyeballs==2.7.1",
    "aiosignal==1.4.0", "attrs==26.1.0", "frozenlist==1.8.0", "idna==3.20", "multidict==7.2.1", "propcache==0.5.4",
    "typing_extensions==4.16.0", "yarl==1.25.1",
)  # fmt: skip


@pytest.mark.slow
def test_moshis_own_program_holds_a_conversation(host: Host, upstream: Upstream, tmp_path: Path) -> None:
    upstream.events = whole(16)
    sound = tmp_path / "sound.pcm"
    sound.write_bytes(silence(400) + host.script.speech.say("What is the time?"))
    done = subprocess.run(
        [python_with(*PROGRAM), Path(__file__).parent / "others" / "with_moshi.py", host.url, sound],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["said"] == " Hello there, my friend."
    assert host.script.thinker.last == [("user", "What is the time?")]
    assert "Lost connection" not in report["problems"]
    # The stream is always there: the program misses it while it starts, and where this machine is too busy.
    assert report["lags"] < report["blocks"] / 2
