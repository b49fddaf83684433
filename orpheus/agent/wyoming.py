"""Wyoming, as Home Assistant's voice pipeline speaks it: hear, think and speak, each as a service of its own, over TCP.

    ▶ describe                                          ◀ info
    ▶ transcribe  audio-start  audio-chunk …  audio-stop   ◀ transcript
    ▶ transcript                                        ◀ handled-start  handled-chunk …  handled  handled-stop
    ▶ synthesize                                        ◀ audio-start  audio-chunk …  audio-stop
    ▶ synthesize-start  synthesize-chunk …  synthesize  synthesize-stop    ◀ the same, and synthesize-stopped

The house takes the turns, so there is no Conversation here; what is thought of is only what was said before under the
same `conversation_id`. An event is a line of JSON, then, if it says so, more of its data, then its samples. The protocol
has no keys: `orpheus talk --wyoming PORT` takes it from this machine only. The framing is ours, as the protocol's own
library reads whatever length a client claims.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orpheus import __version__
from orpheus.agent.agent import Agent
from orpheus.agent.audio import MAX_INPUT_S, AudioFormat, InputStream, Samples
from orpheus.agent.think import INSTRUCTIONS, Message, TextDelta
from orpheus.errors import AtCapacity, BadRequest, EngineError, NotReady, OrpheusError, TooLarge
from orpheus.http.connections import STALL_S
from orpheus.server.admission import INTERRUPTED, SEND_S
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import MAX_STREAMED_CHARS, SpeechService
from orpheus.tasks import cancel_and_wait
from orpheus.text import StreamingSegmenter
from orpheus.tts.params import SpeechParams
from orpheus.tts.usage import Usage
from orpheus.voices import VOICES, Voices, published_voices

log = logging.getLogger(__name__)

RATE = 24_000  # Hz, of what is spoken; 16-bit and mono, as what is heard
MAX_CONNECTIONS = 64  # open ones; those that are worked for count as conversations
# Of the line of JSON, and of the data after it: the longest text with all of it escaped.
MAX_HEADER_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024  # of samples in one event
IDLE_S = 300.0  # between two events, while nothing is going on
PAUSE_S = 60.0  # within a recording or a text
REQUEST_S = 900.0  # for all of one: its place is wanted by others, and the longest recording has ten minutes
PLACE_S = 2.0  # for a place: the house asks for the next step with the last word of the one before
POLL_S = 0.02  # meanwhile
LINGER_S = 2.0  # after an error, for the client to read it
MAX_UNREAD_BYTES = 64 * 1024  # written and not yet read, beyond which nothing more is made
LANGUAGES = tuple(dict.fromkeys(voice.language for voice in VOICES.values()))
MAX_TALKS = 64  # that are remembered, the latest
TALK_S = 600.0  # for so long
MAX_VOICE_CHARS = 200
MAX_PROMPT_CHARS = 4000  # of names to expect, as OpenAI's Realtime takes them
TALK_MESSAGES = 20  # of each, the latest
_LANGUAGE = re.compile(r"([a-z]{2,3})([-_].*)?", re.IGNORECASE)


@dataclass
class Event:
    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encoded(self) -> bytes:
        data = json.dumps(self.data, ensure_ascii=False).encode() if self.data else b""
        header = {
            "type": self.type,
            "version": __version__,
            "data_length": len(data),
            "payload_length": len(self.payload),
        }
        return json.dumps(header).encode() + b"\n" + data + self.payload


async def read_event(reader: asyncio.StreamReader, wait_s: float) -> Event | None:
    """The next event; None at the end. TimeoutError if none begins within `wait_s`.

    BadRequest for what is no event, TooLarge for too large a one.
    """
    async with asyncio.timeout(wait_s):
        first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(STALL_S):
            header = _json(first if first == b"\n" else first + await reader.readuntil(b"\n"))
            data = header.get("data") or {}
            if length := _length(header, "data_length", MAX_HEADER_BYTES):
                data = {**data, **_json(await reader.readexactly(length))} if isinstance(data, dict) else None
            payload = await reader.readexactly(_length(header, "payload_length", MAX_PAYLOAD_BYTES))
    except TimeoutError:
        raise BadRequest(f"An event was not whole within {STALL_S:g} s: connect again.") from None
    except asyncio.LimitOverrunError:
        raise TooLarge(f"The header of an event has at most {MAX_HEADER_BYTES} bytes.") from None
    except asyncio.IncompleteReadError:
        return None
    type = header.get("type")
    if not isinstance(type, str) or not isinstance(data, dict):
        raise BadRequest("An event is a line of JSON: an object with a type and, if it has any, its data.")
    return Event(type, data, payload)


def _json(line: bytes) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest(
            "An event begins with a line of JSON, an object. This port speaks Wyoming, not HTTP."
        )
    return body


def _length(header: dict[str, Any], name: str, most: int) -> int:
    length = header.get(name) or 0
    if not isinstance(length, int) or length < 0:
        raise BadRequest(f"{name} must be a number of bytes.")
    if length > most:
        raise TooLarge(f"{name} is {length}; at most {most} bytes are taken: send audio in smaller chunks.")
    return length


class Talks:
    """What was said in each of the latest conversations, by the id that the house gives it."""

    def __init__(self) -> None:
        self._talks: OrderedDict[str, tuple[float, list[Message]]] = OrderedDict()

    def messages(self, id: str | None) -> list[Message]:
        since_s, said = self._talks.get(id or "", (0.0, []))
        return said if time.monotonic() - since_s < TALK_S else []

    def add(self, id: str | None, said: list[Message]) -> None:
        if id is None:
            return
        self._talks[id] = (time.monotonic(), [*self.messages(id), *said][-TALK_MESSAGES:])
        self._talks.move_to_end(id)
        while len(self._talks) > MAX_TALKS:
            self._talks.popitem(last=False)


class House:
    """The server: one for all connections."""

    def __init__(self, agent: Agent, service: SpeechService) -> None:
        self.agent = agent
        self.service = service
        self.talks = Talks()
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self, bound: socket.socket) -> AsyncIterator[None]:
        """Takes connections at this listening socket while the body runs."""
        server = await asyncio.start_server(self._accept, sock=bound, limit=MAX_HEADER_BYTES)
        try:
            yield
        finally:
            server.close()
            await cancel_and_wait([*self._connections])

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(MAX_UNREAD_BYTES)
        connection = _Connection(self, reader, writer)
        try:
            await connection.run()
        except asyncio.CancelledError:
            await connection.interrupt()
            raise
        except (ConnectionError, TimeoutError) as error:
            log.info(
                "a Wyoming connection ended: %s", error or "it was silent, or read nothing, for too long"
            )
        except Exception:
            log.exception("unexpected error of a Wyoming connection")
        finally:
            await connection.aclose()
            if writer.transport.get_write_buffer_size() and not connection.ended:
                writer.transport.abort()  # it reads nothing
            writer.close()


class _Connection:
    def __init__(self, house: House, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = False  # by the client, or with an error
        self._house = house
        self._reader = reader
        self._writer = writer
        self._place = ExitStack()  # among the conversations, while something is worked on
        self._placed_s = 0.0  # when it was taken
        self._work: asyncio.Task[None] | None = None
        self._asked: dict[str, Any] = {}  # by the last transcribe
        self._input: _Recording | None = None  # being received
        self._text: StreamingSegmenter | None = None  # being received, and spoken

    async def run(self) -> None:
        """Returns when the client has left, or was told of an error. ConnectionError and TimeoutError if it is to be cut."""
        try:
            while not self.ended:
                try:
                    event = await read_event(self._reader, self._patience_s)
                except TimeoutError:
                    if self._is_working:
                        continue
                    raise
                if event is None:
                    self.ended = True
                elif not self.ended:
                    await self._handle(event)
                    if self._is_receiving and time.monotonic() - self._placed_s > REQUEST_S:
                        raise BadRequest(
                            f"It was not complete within {REQUEST_S / 60:g} minutes: send it in parts."
                        )
                    await asyncio.sleep(0)  # what has arrived already would not let others have their turn
        except OrpheusError as error:
            await self._stop_work()
            await self._fail(error)
        with suppress(TimeoutError):  # closed with something unread, it would never see the error
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(MAX_UNREAD_BYTES):
                    pass

    async def interrupt(self) -> None:
        """The server shuts down: tell who waits for something."""
        if self._is_receiving or (self._work is not None and not self._work.done()):
            await self._stop_work()
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(SEND_S):
                    await self._fail(NotReady(INTERRUPTED))

    async def aclose(self) -> None:
        await self._stop_work()
        self._place.close()

    async def _stop_work(self) -> None:
        if self._work is not None:
            await cancel_and_wait([self._work])

    @property
    def _is_working(self) -> bool:
        """On something that was received to its end."""
        return self._text is None and self._work is not None and not self._work.done()

    @property
    def _is_receiving(self) -> bool:
        return self._input is not None or self._text is not None

    @property
    def _patience_s(self) -> float:
        return PAUSE_S if self._is_receiving else IDLE_S

    async def _handle(self, event: Event) -> None:
        match event.type:
            case "describe":
                await self._send("info", _info(self._house.service))
            case "ping":
                await self._send("pong", {"text": event.data.get("text")})
            case "transcribe":
                self._asked = event.data
            case "audio-start":
                await self._begin()
                self._input = _Recording()
            case "audio-chunk":
                if self._input is None:
                    await self._begin()
                    self._input = _Recording()
                self._input.add(event)
            case "audio-stop" if self._input is not None:
                recording, self._input = self._input, None
                self._start(self._transcribe, recording.samples())
            case "transcript":
                text, context = _text(event), event.data.get("context")
                if len(text) > MAX_STREAMED_CHARS:
                    raise TooLarge(f"A question has at most {MAX_STREAMED_CHARS} characters: ask in parts.")
                await self._begin()
                self._start(self._answer, text, context)
            case "synthesize" if self._text is None:  # while one is streamed, it is the same text again
                text = _text(event)
                segmenter = await self._begin_to_speak(event.data)
                segmenter.push(text)
                segmenter.end()
            case "synthesize-start":
                self._text = await self._begin_to_speak(event.data, stopped=True)
            case "synthesize-chunk" if self._text is not None:
                self._text.push(_text(event))
            case "synthesize-stop" if self._text is not None:
                self._text.end()
                self._text = None
            case _:
                pass  # as the protocol has it: there are events of other services

    # Work, one at a time

    async def _begin(self) -> None:
        """Wait for what is going on, and take a place. AtCapacity if there is none, NotReady if there is no agent."""
        self._input = None  # a recording that was not ended is given up
        if self._text is not None:
            self._text.end()  # it was not told that the text has ended
            self._text = None
        if self._work is not None:
            await asyncio.wait([self._work])
        self._place.close()
        agent, until_s = self._house.agent, time.monotonic() + PLACE_S
        while agent.is_full and time.monotonic() < until_s:  # noqa: ASYNC110 - others share it
            await asyncio.sleep(POLL_S)
        self._place.enter_context(agent.admitted())
        self._placed_s = time.monotonic()
        await agent.loaded()

    def _start(self, work: Callable[..., Awaitable[None]], *given: Any) -> None:
        self._work = asyncio.create_task(self._run(work, *given))

    async def _run(self, work: Callable[..., Awaitable[None]], *given: Any) -> None:
        try:
            await work(*given)
        except OrpheusError as error:
            await self._fail(error)
        except (ConnectionError, TimeoutError):
            self._writer.transport.abort()  # it has left, or reads nothing
        except Exception:
            log.exception("unexpected error of a Wyoming request")
            await self._fail(EngineError("The agent failed; try again."))
        finally:
            self._place.close()

    async def _transcribe(self, samples: Samples) -> None:
        if not len(samples):
            await self._send("transcript", {"text": ""})
            return
        names = [*_strings(self._asked, "transcript_names"), *_strings(self._asked, "transcript_terms")]
        known = _languages(_voices(self._house.service))
        language, prompt = _language(self._asked, known), ", ".join(names)[:MAX_PROMPT_CHARS] or None
        recognizer = self._house.agent.ports.recognizer
        try:
            heard = await recognizer.transcribe(samples, language=language, prompt=prompt)
        except EngineError:  # which may pass
            heard = await recognizer.transcribe(samples, language=language, prompt=prompt)
        await self._send("transcript", {"text": heard.text.strip()})

    async def _answer(self, text: str, context: Any) -> None:
        id = context.get("conversation_id") if isinstance(context, dict) else None
        id = id if isinstance(id, str) else None
        asked = Message("user", text)
        messages = [Message("system", INSTRUCTIONS), *self._house.talks.messages(id), asked]
        answer = ""
        back = {"context": context} if isinstance(context, dict) else {}
        try:
            thoughts = self._house.agent.ports.thinker.answer(messages, conversation=id or "")
            async with aclosing(thoughts):
                async for thought in thoughts:
                    if not isinstance(thought, TextDelta) or not thought.text:
                        continue
                    if not answer:
                        await self._send("handled-start", back)
                    answer += thought.text
                    await self._send("handled-chunk", {"text": thought.text})
                    if len(answer) > MAX_STREAMED_CHARS:
                        break
        except OrpheusError as error:
            log.warning("the language model failed: %s", error)
            await self._send("not-handled", {"text": error.message, **back})
            return
        if not answer.strip():
            await self._send("not-handled", {"text": "The language model gave no answer; ask again.", **back})
            return
        self._house.talks.add(id, [asked, Message("assistant", answer.strip())])
        await self._send("handled", {"text": answer.strip(), **back})
        await self._send("handled-stop", {})

    async def _begin_to_speak(self, asked: dict[str, Any], *, stopped: bool = False) -> StreamingSegmenter:
        """Where the text goes. BadRequest for a voice that there is not. `stopped`: as for `_speak`."""
        await self._begin()
        service = self._house.service
        await service.loaded()
        if asked.get("text_format") == "ssml":
            raise BadRequest("SSML is not spoken: send plain text.")
        voice = _voice(asked.get("voice"), service.voices)
        request = SpeechRequest(input="", voice=voice, response_format="pcm", sample_rate=RATE)
        params = service.params(request, patient=True)
        segmenter = service.pipeline.segmenter(params, max_chars=MAX_STREAMED_CHARS)
        self._start(self._speak, segmenter, params, stopped)
        return segmenter

    async def _speak(self, segmenter: StreamingSegmenter, params: SpeechParams, stopped: bool) -> None:
        """`stopped`: say so at the end, as for a text that comes in pieces."""
        sound = {"rate": RATE, "width": 2, "channels": 1}
        started = False
        async with aclosing(self._house.service.encoded(segmenter, params, Usage())) as chunks:
            async for chunk in chunks:
                if not started:
                    await self._send("audio-start", sound)
                started = True
                await self._send("audio-chunk", sound, chunk)
        if not started:  # there is nothing to say in it
            await self._send("audio-start", sound)
        await self._send("audio-stop", {})
        if stopped:
            await self._send("synthesize-stopped", {})

    # To the client

    async def _send(self, type: str, data: dict[str, Any], payload: bytes = b"") -> None:
        """TimeoutError if the client reads nothing for too long."""
        self._writer.write(Event(type, data, payload).encoded())
        async with asyncio.timeout(STALL_S):
            await self._writer.drain()

    async def _fail(self, error: OrpheusError) -> None:
        """Tell, and end the connection: the house waits for an answer that will not come."""
        if not isinstance(error, AtCapacity | BadRequest | TooLarge):
            log.warning("a Wyoming request failed: %s", error)
        if self.ended:
            return
        self.ended = True
        await self._send("error", {"text": error.message, "code": error.code or error.type})
        self._writer.write_eof()


class _Recording:
    """Chunks of samples as they come → samples at 16 kHz."""

    def __init__(self) -> None:
        self._format: AudioFormat | None = None
        self._stream: InputStream | None = None
        self._samples = bytearray()  # not a list: a chunk may have one sample
        self._length_s = 0.0

    def add(self, chunk: Event) -> None:
        """BadRequest for another kind of audio, and for too much of it."""
        said = tuple(chunk.data.get(name) for name in ("rate", "width", "channels"))
        rate, width, channels = said
        if not isinstance(rate, int) or (width, channels) != (2, 1):
            raise BadRequest(f"Send 16-bit mono samples, not rate, width and channels of {said}.")
        format = AudioFormat("pcm", rate)
        if self._stream is None or format != self._format:
            self._format, self._stream = format, InputStream(format)
        self._length_s += len(chunk.payload) / (2 * rate)
        if self._length_s > MAX_INPUT_S:
            raise BadRequest(f"The recording is longer than {MAX_INPUT_S} s: send it in parts.")
        self._samples += self._stream.add(chunk.payload).tobytes()

    def samples(self) -> Samples:
        return np.frombuffer(bytes(self._samples), np.float32)


def _text(event: Event) -> str:
    text = event.data.get("text")
    if not isinstance(text, str):
        raise BadRequest(f"{event.type} needs a text.")
    return text


def _strings(data: dict[str, Any], name: str) -> Iterator[str]:
    values = data.get(name)
    return (value for value in (values if isinstance(values, list) else ()) if isinstance(value, str))


def _language(data: dict[str, Any], known: Collection[str]) -> str | None:
    """The language that is asked for, without its country; None where it is none of those that are known."""
    given = data.get("language")
    found = _LANGUAGE.fullmatch(given) if isinstance(given, str) else None
    return language if found and (language := found[1].lower()) in known else None


def _languages(voices: Voices) -> tuple[str, ...]:
    """What is heard and thought in: what the published voices speak, and those that are here."""
    return tuple(dict.fromkeys((*LANGUAGES, *voices.languages)))


def _voices(service: SpeechService) -> Voices:
    """Those of the model; while it is not known, English ones."""
    try:
        return service.voices
    except OrpheusError:
        return published_voices(("en",))


def _voice(asked: Any, voices: Voices) -> str:
    """The voice that is named, or the first of the language that is."""
    asked = asked if isinstance(asked, dict) else {}
    if isinstance(name := asked.get("name"), str):
        return name[:MAX_VOICE_CHARS]
    language = _language(asked, voices.languages)
    return next((voice.id for voice in voices.all if voice.language == language), voices.default.id)


def _info(service: SpeechService) -> dict[str, Any]:
    """What there is, by the program that does it; also while it loads, as the house asks only now and then."""
    loaded = _voices(service)
    languages = [*_languages(loaded)]
    voices = [
        _artifact(voice.id, ", ".join(filter(None, (voice.name, voice.gender))), languages=[voice.language])
        for voice in loaded.all
    ]
    return {
        "asr": [
            _artifact(
                "orpheus-hears",
                "Orpheus: speech to text",
                models=[_artifact("orpheus", "the agent's recogniser", languages=languages)],
                supports_transcript_streaming=False,
            )
        ],
        "tts": [
            _artifact(
                "orpheus-speaks",
                "Orpheus: text to speech",
                voices=voices,
                supports_synthesize_streaming=True,
            )
        ],
        "handle": [
            _artifact(
                "orpheus-thinks",
                "Orpheus: answers by a language model",
                models=[_artifact("orpheus", "the agent's language model", languages=languages)],
                supports_handled_streaming=True,
            )
        ],
    }


def _artifact(name: str, description: str, **more: Any) -> dict[str, Any]:
    maker = {"name": "Orpheus", "url": "https://huggingface.co/canopylabs"}
    return {
        "name": name,
        "description": description,
        "attribution": maker,
        "installed": True,
        "version": __version__,
        **more,
    }
