"""unmute's web page: the agent in the place of unmute's backend. (Of unmute's TTS service: server/sockets/unmute.py.)

    ▶ session.update  input_audio_buffer.append (Ogg-Opus, or MediaRecorder's WebM) …
    ◀ session.updated  response.created  response.text.delta (a word)  response.audio.delta (Ogg-Opus) …
      conversation.item.input_audio_transcription.delta  input_audio_buffer.speech_started  unmute.interrupted_by_vad …

On `WS /v1/realtime` and `/ws`, like OpenAI's Realtime, which it resembles, so that only the first message tells which of
the two it is. The page may begin with audio, even of the connection before: its recorder starts first. It plays all that it
gets and cannot be emptied, so audio is sent as it is heard, a little ahead, and words with it. The agent greets first,
speaks again after seven seconds of silence, and is gone after an answer that ends with "Bye!".
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, cast

import httpx
import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.types import Scope

from orpheus.agent import events as told
from orpheus.agent.agent import Agent
from orpheus.agent.audio import AudioFormat, InputStream, Samples
from orpheus.agent.conversation import Conversation
from orpheus.agent.events import OUTPUT_RATE, Ask, Config
from orpheus.agent.history import Item, Part
from orpheus.agent.opus import FRAME_MS, OGG, WEBM, OggOpusWriter, OpusReader, pour
from orpheus.agent.phrases import in_language
from orpheus.agent.sockets.pacer import Pacer
from orpheus.agent.sockets.realtime_schema import json_text, parse
from orpheus.agent.sockets.unmute_characters import CHARACTERS, GOODBYE, HELLO, Character, system_prompt
from orpheus.agent.sockets.wire import Wire, audio_bytes
from orpheus.agent.turns import TurnConfig
from orpheus.errors import BadRequest, OrpheusError
from orpheus.server.offers import REALTIME
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import (
    FAILED,
    ClientIdle,
    ClientStalled,
    Connection,
    close_reason,
    serve,
)
from orpheus.server.sockets.messages import read_json
from orpheus.settings import endpoint
from orpheus.tasks import first_of
from orpheus.voices import Voice

log = logging.getLogger(__name__)

FIRST_MESSAGE_S = 3.0  # the page sends one at once; a client of OpenAI's may wait for ours
SILENCE_MS = 7_000  # after which the agent speaks again
MAX_SILENCES = 3  # in a row; then it waits for the human
LEAD_S = 0.3  # of audio that the page has and has not played: what is still heard after an interruption
LEAVE_S = 1.0  # after the last of a goodbye was sent
CHUNK_MS = 80  # of audio in a message, as unmute's own backend sends it
MAX_TEXT_CHARS = 64 * 1024  # of instructions
SHOWN_MESSAGES = 20  # of the history, the last, in response.created
CHECK_S = 2.0  # the page waits 3 s for /v1/health
HEALTH_S = 2.0  # for which an answer of it holds: anybody may ask
_CHUNK_BYTES = 2 * OUTPUT_RATE * CHUNK_MS // 1000


# Which of the two it is


def may_be_unmute(scope: Scope) -> bool:
    """Whether a WebSocket may come from unmute's page: it offers "realtime" and nothing else, and names no model."""
    return scope.get("subprotocols") == [REALTIME] and b"model=" not in scope.get("query_string", b"")


async def hold_either(
    agent: Agent, service: SpeechService, socket: WebSocket, realtime: Callable[[Connection], Wire]
) -> None:
    """Accept a WebSocket that may be unmute's, and serve it by its protocol, or by the wire that `realtime` makes."""
    await socket.accept(REALTIME)
    connection = Connection(socket, may_be_silent=True)
    await serve(connection, _hold_either(agent, service, connection, realtime))


async def _hold_either(
    agent: Agent, service: SpeechService, connection: Connection, realtime: Callable[[Connection], Wire]
) -> None:
    if await _is_unmute(connection):
        await UnmuteFrontend(agent, service, connection).run()
        return
    with agent.admitted():
        await realtime(connection).run()


async def _is_unmute(connection: Connection) -> bool:
    """By its first message, which is read again later."""
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            message = await connection.receive()
    except TimeoutError:
        return False
    connection.put_back(message)
    try:
        body = (read_json(message) if isinstance(message, str) else None) or {}
    except OrpheusError:
        return False
    type, session, audio = str(body.get("type")), body.get("session"), body.get("audio")
    if type == "session.update" and isinstance(session, dict):
        return "allow_recording" in session or isinstance(session.get("instructions"), dict)
    if type == "input_audio_buffer.append" and isinstance(audio, str):
        return audio.startswith(_BASE64)
    return type.startswith(_OURS)


_BASE64 = tuple(base64.b64encode(magic).decode().rstrip("=")[:5] for magic in (OGG, WEBM))
_OURS = ("unmute.", "bridge.")  # events of unmute's, and of a fork that passes a robot's on


# The protocol


class _Instructions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Character = "constant"
    text: str | None = Field(default=None, max_length=MAX_TEXT_CHARS)


class _Session(BaseModel):
    model_config = ConfigDict(extra="ignore")

    instructions: _Instructions | None = None
    voice: str | None = Field(default=None, max_length=4096)

    @field_validator("instructions", mode="before")
    @classmethod
    def words_are_constant(cls, given: Any) -> Any:
        return {"text": given} if isinstance(given, str) else given


class UnmuteFrontend(Wire):
    """One connection of the page."""

    def __init__(self, agent: Agent, service: SpeechService, connection: Connection) -> None:
        super().__init__(agent, service, connection)
        self._config: Config | None = None  # once the page has said who it talks to
        self._opus = OpusReader()
        self._pcm = InputStream(AudioFormat("pcm", OUTPUT_RATE))
        self._writer = OggOpusWriter()
        self._pacer = Pacer(LEAD_S)
        self._started_ms: dict[str, int] = {}  # by item of what is being said
        self._silences = 0
        self._farewell = asyncio.Event()

    @property
    def config(self) -> Config:
        return self._config or self._configured(_Session())

    async def run(self) -> None:
        try:
            with self._agent.admitted():
                await super().run()
        except (WebSocketDisconnect, ClientIdle, ClientStalled):
            raise
        except Exception as error:
            if not isinstance(error, OrpheusError):
                log.exception("unexpected error of a conversation")
                error = OrpheusError("The conversation broke off by a fault of the server: connect again.")
            log.warning("a conversation of unmute's page ended: %s", error)
            self._send("error", error=_error(error) | {"type": "fatal"})
            await self.outbox.flush()
            await self.connection.close(FAILED, close_reason(error))

    async def read(self, conversation: Conversation) -> None:
        await first_of(self._listen(conversation), self._pacer.run(), self._leave())

    async def _listen(self, conversation: Conversation) -> None:
        while True:
            message = await self.connection.receive()
            try:
                body = read_json(message) if isinstance(message, str) else None
                if body is None:
                    raise BadRequest("Messages must be text frames with a JSON object.", code="invalid_json")
                await self._handle(conversation, body)
            except OrpheusError as error:
                self.fail(error)
            await self.outbox.room()

    async def _leave(self) -> None:
        """Once the goodbye was heard."""
        await self._farewell.wait()
        await asyncio.sleep(LEAVE_S)

    # From the page

    async def _handle(self, conversation: Conversation, body: dict[str, Any]) -> None:
        match body.get("type"):
            case "session.update":
                self._update(conversation, body.get("session"))
            case "input_audio_buffer.append":
                await pour(self._opus, audio_bytes(body.get("audio"), "audio"), self._hear)
            case "unmute.input_audio_buffer.append_pcm":  # a fork's, for clients without Opus
                await self._hear(self._pcm_samples(body))
            case str(type) if type.startswith(_OURS):
                pass  # notes to itself, and of its forks to others
            case other:
                raise BadRequest(
                    f"Invalid value: {str(other)[:60]!r}. Send session.update or input_audio_buffer.append.",
                    param="type",
                    code="invalid_value",
                )

    async def _hear(self, samples: Samples) -> None:
        """Not what was recorded while the page connected: it does not know yet who is listening, and is greeted first."""
        if self._config is not None and self.conversation is not None:
            await self.conversation.hear(samples)

    def _update(self, conversation: Conversation, given: Any) -> None:
        if not isinstance(given, dict):
            raise BadRequest("Missing required parameter: 'session'.", param="session")
        session = cast(_Session, parse(_Session, given, "session."))
        begins = self._config is None
        self._config = self._configured(session)
        conversation.configure(self._config)
        allowed = given.get("allow_recording") is True
        echo = {name: given.get(name) for name in ("instructions", "voice")}
        self._send(
            "session.updated", session={**echo, "allow_recording": allowed}
        )  # nothing is ever recorded
        if begins:
            # To a language model a conversation begins with the user.
            hello = in_language(HELLO, self._voice(self._config.voice).language)
            conversation.create_item(Item(conversation.new_id("item"), content=(Part("text", hello),)))
            conversation.respond(Ask(self._config))

    def _configured(self, session: _Session) -> Config:
        """The session so far, with these changes."""
        voice = self._voice(session.voice) if session.voice or self._config is None else None
        instructions = session.instructions or (None if self._config else _Instructions(type="smalltalk"))
        config = self._config or Config(turns=TurnConfig(idle_timeout_ms=SILENCE_MS))
        if voice is not None:
            config = replace(config, voice=voice.id)
        if instructions is not None:
            languages = [self._voice(config.voice).language]
            prompt = system_prompt(instructions.type, instructions.text, languages)
            config = replace(config, instructions=prompt)
        return config

    def _voice(self, name: str | None) -> Voice:
        """As unmute's TTS service takes names: those of its own list too, and the default voice for any other."""
        voice, known = self.service.voices.find_unmute(name)
        if not known:
            self.service.metrics.unknown_voices.inc()
        return voice

    def _pcm_samples(self, body: dict[str, Any]) -> Samples:
        data = audio_bytes(body.get("audio"), "audio")
        if body.get("format", "int16") == "float32":
            whole = np.frombuffer(data[: len(data) - len(data) % 4], "<f4")
            data = (np.clip(np.nan_to_num(whole), -1, 1) * 32767).astype("<i2").tobytes()
        return self._pcm.add(data)

    # To the page

    def tell(self, event: told.Event) -> None:
        match event:
            case told.UserStarted(item_id, start_ms, interrupts):
                self._started_ms = {item_id: start_ms}
                if interrupts:
                    self._pacer.clear()
                    self._farewell.clear()
                    self._send_audio(self._writer.flush())  # the rest of a frame
                    self._send("unmute.interrupted_by_vad")
                self._send("input_audio_buffer.speech_started")
            case told.UserStopped():
                self._send("input_audio_buffer.speech_stopped")
            case told.TranscriptDone(item_id, text):
                start_s = self._started_ms.get(item_id, 0) / 1000
                type = "conversation.item.input_audio_transcription.delta"
                self._send(type, delta=text, start_time=start_s)
                self._hear_from(True)
            case told.IdleTimeout():
                self._hear_from(False)
            case told.ResponseStarted(response):
                state = {"object": "realtime.response", "status": "in_progress"}
                voice = response.ask.config.voice
                self._send(
                    "response.created", response={**state, "voice": voice, "chat_history": self._history()}
                )
            case told.TextAdded(text=text):
                for word in text.split():
                    self._later("response.text.delta", delta=word)
            case told.AudioAdded(pcm=pcm):
                for start in range(0, len(pcm), _CHUNK_BYTES):
                    self._play(pcm[start : start + _CHUNK_BYTES])
            case told.PartDone(part=part, cut=False):
                self._later("response.text.done", text=part.text or "")
                self._pacer.put(self._end_audio, CHUNK_MS / 1000)
                self._later("response.audio.done")
            case told.ResponseDone(response):
                timings = {"timing": asdict(response.timings), "status": response.status}
                self._later("unmute.additional_outputs", args=_outputs(timings))
                text = " ".join(item.text for item in response.output).rstrip()
                if response.status == "completed" and text.lower().endswith(GOODBYE):
                    self._pacer.put(self._farewell.set)
            case told.Failed(error):
                self.fail(error)

    def _hear_from(self, user: bool) -> None:
        """The user has said something, or again nothing: an agent alone in a room does not talk for ever."""
        self._silences = 0 if user else self._silences + 1
        conversation = self.conversation
        assert conversation is not None
        timeout_ms = SILENCE_MS if self._silences < MAX_SILENCES else None
        turns = replace(conversation.config.turns, idle_timeout_ms=timeout_ms)
        if turns != conversation.config.turns:
            self._config = replace(conversation.config, turns=turns)
            conversation.configure(self._config)

    def _history(self) -> list[dict[str, str]]:
        assert self.conversation is not None
        messages = self.conversation.history.messages("")
        return [{"role": message.role, "content": message.content} for message in messages[-SHOWN_MESSAGES:]]

    def _play(self, pcm: bytes) -> None:
        samples = np.frombuffer(pcm, "<i2")
        self._pacer.put(lambda: self._send_audio(self._writer.write(samples)), len(samples) / OUTPUT_RATE)

    def _end_audio(self) -> None:
        """With silence behind it: the page's decoder gives what it has only when more comes."""
        pages = self._writer.flush()
        frames = CHUNK_MS // FRAME_MS
        silence = np.zeros(frames * OUTPUT_RATE * FRAME_MS // 1000, np.int16)
        self._send_audio(pages + self._writer.write(silence))

    def _send_audio(self, pages: bytes) -> None:
        if pages:
            self._send("response.audio.delta", delta=base64.b64encode(pages).decode())

    def fail(self, error: OrpheusError) -> None:
        self._send("error", error=_error(error))

    def keep_alive(self) -> None:
        self._send("unmute.additional_outputs", args=_outputs({}))

    def _later(self, type: str, **fields: Any) -> None:
        """Once the audio before it was sent."""
        self._pacer.put(lambda: self._send(type, **fields))

    def _send(self, type: str, **fields: Any) -> None:
        self.outbox.put(json_text({"type": type, "event_id": f"event_{uuid.uuid4().hex[:21]}", **fields}))


def _error(error: OrpheusError) -> dict[str, Any]:
    return {**cast(dict[str, Any], error.body()["error"]), "details": None}


def _outputs(debug: dict[str, Any]) -> dict[str, Any]:
    """What the page shows when it is told to debug."""
    return {"chat_history": [], "debug_dict": debug, "debug_plot_data": []}


# What the page asks before it connects


def routes(agent: Agent, service: SpeechService) -> APIRouter:
    router = APIRouter()
    health = _Health(agent, service)

    @router.get("/v1/health")
    async def state() -> dict[str, bool]:
        """unmute's: whether a conversation could be held now. Always 200, within three seconds."""
        return await health.report()

    @router.get("/v1/voices")
    async def voices() -> list[dict[str, Any]]:
        """unmute's: the voices to talk to, and then its characters."""
        loaded = service.voices.all
        listed = [_listed(voice.id, voice, "smalltalk") for voice in loaded]
        characters = [character for character in CHARACTERS if character not in ("constant", "smalltalk")]
        for number, character in enumerate(characters):
            name = character.replace("_", " ")
            listed.append(_listed(name, loaded[number % len(loaded)], character))
        return listed

    return router


def _listed(name: str, voice: Voice, character: Character) -> dict[str, Any]:
    """No language: the page begins with a voice that has none or English, and breaks if there is no such."""
    source = {
        "source_type": "file",
        "path_on_server": voice.id,
        "description": None,
        "description_link": None,
    }
    return {"name": name, "good": True, "instructions": {"type": character}, "source": source}


class _Health:
    """Who answers, asked at most once in `HEALTH_S`."""

    def __init__(self, agent: Agent, service: SpeechService) -> None:
        self._agent = agent
        self._service = service
        self._lock = asyncio.Lock()
        self._report: dict[str, bool] = {}
        self._asked_s = -HEALTH_S

    async def report(self) -> dict[str, bool]:
        async with self._lock:
            if time.monotonic() - self._asked_s >= HEALTH_S:
                self._report = await self._ask()
                self._asked_s = time.monotonic()
        return self._report

    async def _ask(self) -> dict[str, bool]:
        settings = self._service.settings
        loaded = self._agent.problem() is None
        tts, stt, llm = await asyncio.gather(
            self._speaks(),
            _answers(settings.stt_url, "/audio/transcriptions"),
            _answers(settings.llm_url, "/chat/completions"),
        )
        up = {"tts_up": tts, "stt_up": loaded and stt, "llm_up": loaded and llm}
        return {**up, "voice_cloning_up": False, "ok": all(up.values())}

    async def _speaks(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_S):
                await self._service.pipeline.check()
        except TimeoutError:  # busy, not broken
            return True
        except OrpheusError:
            return False
        return True


async def _answers(url: str | None, path: str) -> bool:
    """Whether a server somewhere else answers anything but a failure of its own."""
    if url is None:
        return True
    at = httpx.URL(endpoint(url, path).removesuffix(path) + "/models")
    is_here = at.host in ("localhost", "127.0.0.1", "::1")
    try:
        async with (
            asyncio.timeout(CHECK_S),
            httpx.AsyncClient(trust_env=not is_here) as client,
            client.stream("GET", at.copy_with(userinfo=b"")) as response,
        ):
            return response.status_code < 500
    except (httpx.HTTPError, TimeoutError):
        return False
