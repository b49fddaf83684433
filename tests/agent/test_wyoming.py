"""Wyoming as Home Assistant speaks it: by the protocol's own client, and by what is no client at all."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.handle import Handled, NotHandled
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from orpheus.agent import wyoming
from orpheus.agent.audio import AudioFormat, OutputStream
from orpheus.errors import SetupError, UpstreamError
from orpheus.ops.talk import read_address, speech_options
from tests.agent.conftest import Host
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole
from tests.support.waiting import counting_turns, eventually

SOUND = {"rate": 24_000, "width": 2, "channels": 1}
SAMPLES = SPEECH_FRAMES * 2048  # of an answer of the scripted voice
OTHER_WIDTHS = [(4, 1), (1, 1), (2, 2), (2, 0), (None, 1)]

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def house(host: Host, *events: Any) -> AsyncIterator[AsyncTcpClient]:
    """A connection to which these events were sent."""
    async with asyncio.timeout(20), AsyncTcpClient("127.0.0.1", host.house_port) as client:
        for event in events:
            await client.write_event(event if isinstance(event, Event) else event.event())
        yield client


async def until(client: AsyncTcpClient, *types: str) -> list[Event]:
    """The events up to one of these types, or to the end."""
    events = []
    while (event := await client.read_event()) is not None:
        events.append(event)
        if event.type in types:
            break
    return events


def recording(pcm: bytes, rate: int = 24_000) -> list[Any]:
    sound = {**SOUND, "rate": rate}
    pieces = [pcm[start : start + 2048] for start in range(0, len(pcm), 2048)]
    return [AudioStart(**sound), *(AudioChunk(audio=piece, **sound) for piece in pieces), AudioStop()]


def spoken(events: list[Event]) -> bytes:
    chunks = [AudioChunk.from_event(event) for event in events if AudioChunk.is_type(event.type)]
    assert all((chunk.rate, chunk.width, chunk.channels) == (24_000, 2, 1) for chunk in chunks)
    return b"".join(chunk.audio for chunk in chunks)


def nothing_left(host: Host) -> None:
    eventually(lambda: host.agent.metrics.conversations._value.get() == 0)
    eventually(lambda: not (host.script.thinker.running or host.script.recognizer.running))


async def test_the_house_is_told_what_there_is(host: Host) -> None:
    async with house(host, Describe()) as client:
        info = Info.from_event((await until(client, "info"))[-1])
    (hears,), (speaks,), (thinks,) = info.asr, info.tts, info.handle
    assert hears.models[0].languages == ["en", "fr", "de", "ko", "hi", "zh", "es", "it"]
    assert speaks.supports_synthesize_streaming
    assert [voice.name for voice in speaks.voices][:2] == ["tara", "leah"]
    assert speaks.voices[0].languages == ["en"]
    assert thinks.models[0].installed
    assert thinks.supports_handled_streaming


async def test_a_recording_is_answered_with_its_words(host: Host) -> None:
    sound = host.script.speech.say("Turn on the light.")
    async with house(host, Transcribe(language="de-DE"), *recording(sound)) as client:
        (event,) = await until(client, "transcript")
    assert Transcript.from_event(event).text == "Turn on the light."
    assert host.script.recognizer.languages == ["de"]
    nothing_left(host)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 48_000])
async def test_recordings_have_any_rate(host: Host, rate: int) -> None:
    pcm = np.frombuffer(host.script.speech.say("Turn on the light."), "<i2").astype(np.float32) / 32767
    stream = OutputStream(AudioFormat("pcm", rate), 24_000)
    async with house(host, *recording(stream.add(pcm) + stream.flush(), rate)) as client:
        assert (await until(client, "transcript"))[-1].data["text"] == "Turn on the light."


async def test_a_recording_of_nothing_has_no_words(host: Host) -> None:
    async with house(host, AudioStart(**SOUND), AudioStop()) as client:
        assert (await until(client, "transcript"))[-1].data["text"] == ""
    assert host.script.recognizer.heard == []


async def test_a_connection_may_ask_again_and_for_something_else(host: Host) -> None:
    say = host.script.speech.say
    async with house(host) as client:
        for text in ("First.", "Second."):
            for event in recording(say(text)):
                await client.write_event(event.event())
            assert (await until(client, "transcript"))[-1].data["text"] == text
        await client.write_event(Synthesize("Hello there.").event())
        assert len(spoken(await until(client, "audio-stop"))) > SAMPLES
        await client.write_event(Ping("x").event())
        assert Pong.from_event((await until(client, "pong"))[-1]).text == "x"
        await client.write_event(Transcript("And you?").event())
        assert (await until(client, "handled"))[-1].data["text"] == "Hello there, my friend."


async def test_a_text_is_spoken(host: Host, upstream: Upstream) -> None:
    voice = SynthesizeVoice(name="leo")
    async with house(host, Synthesize("The light is on.", voice=voice)) as client:
        events = await until(client, "audio-stop")
    assert [events[0].type, events[-1].type] == ["audio-start", "audio-stop"]
    assert {event.type for event in events[1:-1]} == {"audio-chunk"}
    assert events[0].data == SOUND
    assert 2 * SAMPLES * 0.5 < len(spoken(events)) <= 2 * SAMPLES * 1.2
    assert "leo" in str(upstream.requests[-1]["prompt"])
    nothing_left(host)


@pytest.mark.parametrize("voice", [SynthesizeVoice(language="en"), SynthesizeVoice(language="xx-YY"), None])
async def test_a_voice_need_not_be_named(host: Host, voice: SynthesizeVoice | None) -> None:
    async with house(host, Synthesize("The light is on.", voice=voice)) as client:
        assert spoken(await until(client, "audio-stop"))


async def test_a_text_with_nothing_to_say_has_no_sound(host: Host) -> None:
    async with house(host, Synthesize("…")) as client:
        assert [event.type for event in await until(client, "audio-stop")] == ["audio-start", "audio-stop"]


async def test_a_text_is_spoken_while_it_is_written(host: Host) -> None:
    async with house(host, SynthesizeStart(voice=SynthesizeVoice(name="zoe"))) as client:
        await client.write_event(SynthesizeChunk("The light in the kitchen is on. ").event())
        first = await until(client, "audio-chunk")  # before the text has ended
        assert first[0].type == "audio-start"
        await client.write_event(SynthesizeChunk("And the door is open.").event())
        # The whole text once more, as the house sends it for servers that cannot do this.
        await client.write_event(Synthesize("The light in the kitchen is on. And the door is open.").event())
        await client.write_event(SynthesizeStop().event())
        events = first + await until(client, "synthesize-stopped")
    assert [event.type for event in events[-2:]] == ["audio-stop", "synthesize-stopped"]
    assert [event.type for event in events].count("audio-start") == 1
    assert 2 * SAMPLES < len(spoken(events)) <= 2 * SAMPLES * 2.6  # twice, once for each sentence
    nothing_left(host)


async def test_a_question_is_answered_word_by_word_and_whole(host: Host) -> None:
    host.script.thinker.answers = [["It is ", "nine", " o'clock."]]
    asked = Event("transcript", {"text": "What time is it?", "context": {"conversation_id": "a"}})
    async with house(host, asked) as client:
        events = await until(client, "handled-stop")
    types = [event.type for event in events]
    assert types == ["handled-start", *["handled-chunk"] * 3, "handled", "handled-stop"]
    assert "".join(event.data["text"] for event in events[1:4]) == "It is nine o'clock."
    handled = Handled.from_event(events[4])
    assert handled.text == "It is nine o'clock."
    assert handled.context == {"conversation_id": "a"}
    assert host.script.thinker.last == [("user", "What time is it?")]


async def test_what_was_said_before_in_the_same_conversation_is_remembered(host: Host) -> None:
    async def ask(text: str, context: Any) -> None:
        async with house(host, Event("transcript", {"text": text, "context": context})) as client:
            await until(client, "handled-stop")

    thinker = host.script.thinker
    await ask("I am Ann.", {"conversation_id": "one"})
    await ask("Who am I?", {"conversation_id": "one"})
    assert thinker.last == [
        ("user", "I am Ann."),
        ("assistant", "Hello there, my friend."),
        ("user", "Who am I?"),
    ]
    for context in ({"conversation_id": "other"}, None, {}, {"conversation_id": 5}, 5, [], {"x": 1}):
        await ask("Who am I?", context)
        assert thinker.last == [("user", "Who am I?")]
    for _ in range(15):
        await ask("More?", {"conversation_id": "one"})
    assert len(thinker.last) == wyoming.TALK_MESSAGES + 1


def test_only_the_latest_conversations_are_remembered() -> None:
    talks = wyoming.Talks()
    said = [wyoming.Message("user", "Hi.")]
    for number in range(wyoming.MAX_TALKS + 5):
        talks.add(str(number), said)
    assert [bool(talks.messages(str(number))) for number in (4, 5, wyoming.MAX_TALKS + 4)] == [
        False,
        True,
        True,
    ]


async def test_a_language_model_that_fails_is_told_in_a_sentence(host: Host) -> None:
    host.script.thinker.answers = [[UpstreamError("The language model is away; try again.")], ["", " "]]
    for text in ("away", "no answer"):
        async with house(host, Transcript("Well?")) as client:
            event = (await until(client, "not-handled"))[-1]
        assert text in (NotHandled.from_event(event).text or "")
    nothing_left(host)


async def test_a_recogniser_that_fails_once_is_asked_again(host: Host) -> None:
    sound = host.script.speech.say("Turn on the light.")
    host.script.recognizer.fail_next = 1
    async with house(host, *recording(sound)) as client:
        assert (await until(client, "transcript"))[-1].data["text"] == "Turn on the light."
    host.script.recognizer.fails = True
    async with house(host, *recording(sound)) as client:
        events = await until(client)
        assert [event.type for event in events] == ["error"]
        assert "The recogniser is away" in events[0].data["text"]
    nothing_left(host)


async def test_one_conversation_too_many_is_told_so_but_may_ask_what_there_is(
    start_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wyoming, "PLACE_S", 0.1)
    with ExitStack() as stack:
        small = start_host(stack, max_conversations=1)
        small.script.thinker.answers = [["Wait. ", 5, "Done."]]
        async with house(small, Transcript("Well?")) as first:
            await until(first, "handled-start")
            async with house(small, Describe(), Synthesize("Hello.")) as second:
                events = await until(second)
                assert [event.type for event in events] == ["info", "error"]
                assert events[1].data["code"] == "rate_limit_exceeded"
                assert "ORPHEUS_MAX_CONVERSATIONS" in events[1].data["text"]
        nothing_left(small)
        async with house(small, Synthesize("Hello.")) as third:
            assert spoken(await until(third, "audio-stop"))


async def test_the_next_step_waits_for_the_end_of_the_one_before(start_host: Callable[..., Host]) -> None:
    with ExitStack() as stack:
        small = start_host(stack, max_conversations=1)
        small.script.thinker.answers = [["Wait. ", 0.5, "Done."]]
        async with house(small, Transcript("Well?")) as first:
            await until(first, "handled-start")
            async with house(small, Synthesize("Hello.")) as second:
                assert spoken(await until(second, "audio-stop"))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\n",
        b"\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b'{"type": 5}\n',
        b'{"type": []}\n',
        b'{"type": "x", "data": [1]}\n',
        b'{"type": "x", "data_length": -1}\n',
        b'{"type": "x", "data_length": "9"}\n',
        b'{"type": "x", "data_length": 1e400}\n',
        b'{"type": "x", "data_length": 2}\n[]',
        b'{"type": "x", "data_length": 3}\n{{{',
        b'{"type": "x", "data_length": 99999999999}\n',
        b'{"type": "x", "payload_length": 99999999999}\n',
        b'{"type": "x", "payload_length": 1.5}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 400_000 + b"\n",
        b'{"type": "transcript"}\n',
        b'{"type": "transcript", "data": {"text": 5}}\n',
        b'{"type": "synthesize", "data": {"text": "Hi.", "voice": {"name": "nobody"}}}\n',
        b'{"type": "synthesize", "data": {"text": "<p/>", "text_format": "ssml"}}\n',
        b'{"type": "synthesize", "data": {"text": "' + b"word " * 4000 + b'"}}\n',
        b'{"type": "audio-chunk", "data": {"rate": 1, "width": 2, "channels": 1}}\n',
        b'{"type": "audio-chunk", "data": {"rate": "16000", "width": 2, "channels": 1}}\n',
        b'{"type": "audio-chunk"}\n',
    ],
)
def test_garbage_is_answered_with_a_sentence_and_the_end(host: Host, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", host.house_port), 10) as raw:
        raw.sendall(garbage)
        answer = b""
        while part := raw.recv(65_536):
            answer += part
    head, _, data = answer.rpartition(b"\n")
    assert json.loads(head.splitlines()[-1])["type"] == "error"
    assert json.loads(data)["text"].endswith((".", "ORPHEUS_MODEL"))
    nothing_left(host)


@pytest.mark.parametrize(
    "odd",
    [
        Event("unheard-of", {"x": 1}, b"123"),
        Event("audio-stop"),
        Event("synthesize-chunk", {"text": "no start"}),
        Event("synthesize-stop"),
        Event("transcribe", {"language": 5, "transcript_names": 5, "transcript_terms": [5, "Ann"]}),
        Event("synthesize-start", {"voice": 5}),
    ],
)
async def test_what_is_no_request_disturbs_nothing(host: Host, odd: Event) -> None:
    async with house(host, odd, *recording(host.script.speech.say("Hello."))) as client:
        assert (await until(client, "transcript"))[-1].data["text"] == "Hello."


@pytest.mark.parametrize(("width", "channels"), OTHER_WIDTHS)
async def test_other_samples_are_refused(host: Host, width: int | None, channels: int) -> None:
    sound = {"rate": 16_000, "width": width, "channels": channels}
    async with house(host, Event("audio-chunk", sound, bytes(64))) as client:
        (event,) = await until(client)
    assert "16-bit mono" in event.data["text"]


async def test_a_recording_has_an_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming, "MAX_INPUT_S", 1)
    async with house(host, *recording(bytes(40_000))) as client:
        assert (await until(client, "transcript"))[-1].type == "transcript"
    async with house(host, *recording(bytes(60_000))) as client:
        (event,) = await until(client)
        assert "longer than 1 s" in event.data["text"]
    nothing_left(host)


async def test_who_leaves_in_the_middle_is_cancelled(host: Host, upstream: Upstream) -> None:
    host.script.thinker.answers = [["Wait. ", 30, "Done."]]
    async with house(host, Transcript("Well?")) as client:
        await until(client, "handled-start")
        assert host.script.thinker.running
    nothing_left(host)
    upstream.events, upstream.pause_s = whole(400), 0.02
    async with house(host, Synthesize("A long text.")) as client:
        await until(client, "audio-chunk")
    nothing_left(host)
    eventually(lambda: upstream.left > 0)
    async with house(host, *recording(host.script.speech.say("Hello."))[:-2]):
        eventually(lambda: host.agent.metrics.conversations._value.get() == 1)
    nothing_left(host)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_S", "PAUSE_S", "STALL_S", "LINGER_S"):
        monkeypatch.setattr(wyoming, name, 0.3)


def closed(raw: socket.socket) -> bool:
    """Whether the server has closed it, after what it had sent."""
    raw.settimeout(0.05)
    try:
        while raw.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b'{"type": "desc',
        b'{"type": "transcribe", "data_length": 100}\n{',
        b'{"type": "audio-chunk", "payload_length": 100}\nxx',
        b'{"type": "audio-start"}\n',
        b'{"type": "synthesize-start"}\n',
    ],
)
def test_who_says_nothing_more_is_closed(host: Host, impatient: None, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", host.house_port), 10) as raw:
        raw.sendall(begun)
        eventually(lambda: closed(raw))
    nothing_left(host)


async def test_who_waits_for_an_answer_need_say_nothing(host: Host, impatient: None) -> None:
    host.script.thinker.answers = [[0.5, "It is nine."]]  # longer than anyone may be idle
    async with house(host, Transcript("What time is it?")) as client:
        assert (await until(client, "handled"))[-1].data["text"] == "It is nine."
    nothing_left(host)


async def test_garbage_in_the_middle_of_an_answer_ends_it(host: Host, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(400), 0.02
    async with house(host, Synthesize("A long text.")) as client:
        await until(client, "audio-chunk")
        client._writer.write(b"garbage\n")  # type: ignore[union-attr]
        assert (await until(client))[-1].type == "error"
    nothing_left(host)


@pytest.mark.parametrize("begun", [AudioStart(**SOUND), SynthesizeStart()])
async def test_a_request_that_is_never_complete_loses_its_place(
    host: Host, monkeypatch: pytest.MonkeyPatch, begun: Any
) -> None:
    monkeypatch.setattr(wyoming, "REQUEST_S", 0.2)
    async with house(host, begun) as client:
        reading = asyncio.create_task(until(client, "error"))
        while not reading.done():  # never silent for long
            await client.write_event(
                Event("audio-chunk" if begun.event().type == "audio-start" else "note", SOUND)
            )
            await asyncio.sleep(0.02)
        assert "not complete within" in reading.result()[-1].data["text"]
    nothing_left(host)


async def test_a_recording_that_is_left_for_another_request_is_given_up(
    start_host: Callable[..., Host], upstream: Upstream
) -> None:
    upstream.events, upstream.pause_s = whole(400), 0.02
    with ExitStack() as stack:
        small = start_host(stack, max_conversations=1)
        begun = recording(small.script.speech.say("Turn on the light."))[:-1]
        async with house(small, *begun, Synthesize("A long text."), AudioStop()) as client:
            await until(client, "audio-chunk")
            await asyncio.sleep(0.1)
            assert small.agent.is_full  # still, for what is being spoken
            assert small.script.recognizer.heard == []
        nothing_left(small)
        eventually(lambda: small.service.admission.active == 0)


async def test_a_recording_in_crumbs_takes_no_more_memory_than_its_samples() -> None:
    made = wyoming._Recording()
    crumb = wyoming.Event("audio-chunk", {**SOUND, "rate": 16_000}, bytes(2))
    for chunk in (crumb, wyoming.Event("audio-chunk", crumb.data)):
        made.add(chunk)
    tracemalloc.start()
    for _ in range(20_000):
        made.add(crumb)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made.samples()) == 20_001
    assert kept < 20_001 * 4 * 4  # as arrays they have 120 bytes each


async def test_a_flood_of_events_lets_others_have_their_turn(host: Host) -> None:
    reader, writer = asyncio.StreamReader(limit=wyoming.MAX_HEADER_BYTES), Sink()
    count = 2_000
    reader.feed_data(b'{"type": "x"}\n' * count)
    reader.feed_eof()
    connection = wyoming._Connection(wyoming.House(host.agent, host.service), reader, writer)  # type: ignore[arg-type]
    async with counting_turns() as turns:
        await connection.run()
    assert turns.count >= count - 1


@pytest.mark.parametrize("length", [wyoming.MAX_STREAMED_CHARS, wyoming.MAX_STREAMED_CHARS + 1])
async def test_a_question_has_a_longest_length(host: Host, length: int) -> None:
    async with house(host, Transcript("x" * length)) as client:
        told = (await until(client, "handled", "error"))[-1]
    assert told.type == ("error" if length > wyoming.MAX_STREAMED_CHARS else "handled")
    nothing_left(host)


async def test_voices_of_ones_own_may_speak_other_languages(
    start_host: Callable[..., Host], upstream: Upstream
) -> None:
    with ExitStack() as stack:
        own = start_host(stack, voices="ana:pt,ling:yue,ronan")
        async with house(own, Describe()) as client:
            info = Info.from_event((await until(client, "info"))[-1])
        for known in (info.asr[0].models[0].languages, info.handle[0].models[0].languages):
            assert {"en", "zh", "pt", "yue"} <= set(known)
        for language, name in (("yue", "ling"), ("pt-BR", "ana"), ("en_US", "ronan"), ("fr", "ana")):
            async with house(own, Synthesize("x", voice=SynthesizeVoice(language=language))) as client:
                await until(client, "audio-stop")
            assert name in str(upstream.requests[-1]["prompt"])
        sound = own.script.speech.say("Acende a luz.")
        async with house(own, Transcribe(language="pt-PT"), *recording(sound)) as client:
            await until(client, "transcript")
        assert own.script.recognizer.languages == ["pt"]


async def test_who_waits_when_the_server_shuts_down_is_told(start_host: Callable[..., Host]) -> None:
    async with AsyncExitStack() as stack:
        running = stack.enter_context(ExitStack())
        host = start_host(running)
        host.script.thinker.answers = [["Wait. ", 30, "Done."]]
        begun = (Transcript("Well?"), AudioStart(**SOUND))
        waiting = [await stack.enter_async_context(house(host, event)) for event in begun]
        await until(waiting[0], "handled-start")
        eventually(lambda: host.agent.metrics.conversations._value.get() == 2)
        await asyncio.to_thread(running.close)
        for client in waiting:
            (event,) = [event for event in await until(client) if event.type == "error"]
            assert "shut down" in event.data["text"]


class Sink:
    """The side of a connection that nobody reads."""

    def write(self, data: bytes) -> None:
        pass


def test_who_never_reads_is_dropped(host: Host, impatient: None, upstream: Upstream) -> None:
    upstream.events = whole(3000)  # four minutes: 12 MB
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", host.house_port))
        raw.sendall(b'{"type": "synthesize", "data": {"text": "A long text."}}\n')
        eventually(lambda: host.agent.metrics.conversations._value.get() == 1)
        nothing_left(host)


def test_so_many_connections_are_open_and_no_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming, "MAX_CONNECTIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", host.house_port), 10))
            raw.sendall(b'{"type": "ping"}\n')
            assert raw.recv(100)
        extra = stack.enter_context(socket.create_connection(("127.0.0.1", host.house_port), 10))
        eventually(lambda: closed(extra))
        raw.close()
        time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", host.house_port), 10) as another:
            another.sendall(b'{"type": "ping"}\n')
            assert another.recv(100)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("10300", ("127.0.0.1", 10_300)),
        (" 10300 ", ("127.0.0.1", 10_300)),
        (":10300", ("127.0.0.1", 10_300)),
        ("0.0.0.0:10300", ("0.0.0.0", 10_300)),
        ("192.168.1.5:1", ("192.168.1.5", 1)),
        ("[::1]:10300", ("::1", 10_300)),
    ],
)
def test_a_port_alone_is_for_this_machine_only(given: str, address: tuple[str, int]) -> None:
    assert read_address(given) == address
    assert speech_options(given) == ("--agent", "--wyoming", given)
    assert speech_options() == ("--agent",)


@pytest.mark.parametrize("given", ["x", "", "99999", "-1", "house:10300", "0.0.0.0", "0.0.0.0:", "::1", "१०"])
def test_another_address_is_a_sentence(given: str) -> None:
    with pytest.raises(SetupError, match=r"--wyoming .* cannot be used: write a port, such as 10300"):
        read_address(given)
