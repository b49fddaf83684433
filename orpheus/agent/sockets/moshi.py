"""`WS /api/chat`: Moshi's protocol, which PersonaPlex speaks too; also at `/api`. Binary frames, each with its kind in front.

    ▶ 1 audio  3 control  7 a text to say
    ◀ 0 handshake  4 metadata  1 audio  2 text  5 error  6 ping

Audio is one stream of Ogg-Opus each way, 24 kHz and mono. Ours never stops, as Moshi's does not: 40 ms every 40 ms, of
silence where nothing is said. Moshi's page throws away what it has of more than a tenth of a second, and its program
reports a lag wherever nothing comes.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import IntEnum

import numpy as np
from fastapi import APIRouter, WebSocket
from numpy.typing import NDArray

from orpheus import __version__
from orpheus.agent import events as told
from orpheus.agent.agent import Agent
from orpheus.agent.audio import Samples
from orpheus.agent.conversation import Conversation
from orpheus.agent.events import OUTPUT_RATE, Ask, Config
from orpheus.agent.opus import OggOpusWriter, OpusReader, pour
from orpheus.agent.sockets.realtime_schema import Session
from orpheus.agent.sockets.wire import Wire, by_voice_alone, hold, refusing, session_of_keys
from orpheus.errors import BadRequest, OrpheusError
from orpheus.server.auth import MOSHI
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import Connection
from orpheus.tasks import first_of
from orpheus.voices import Voices


class Kind(IntEnum):
    """Of a message. The page throws at one it does not know: nothing above PING is ever sent."""

    HANDSHAKE, AUDIO, TEXT, CONTROL, METADATA, ERROR, PING = range(7)
    SAY = 7  # from the client alone


class Control(IntEnum):
    START, END_TURN, PAUSE, RESTART = range(4)


FRAME_S = 0.04  # of audio in a message, and between two
FRAME_SAMPLES = round(FRAME_S * OUTPUT_RATE)
SILENCE = np.zeros(FRAME_SAMPLES, np.int16)
LATE_S = 2 * FRAME_S  # of a stall that is made up for: the page throws more away
MAX_QUIET_S = 4.0  # the page closes a connection after 10 s without a frame

TEMPERATURE_MAX = 2.0  # of a language model
# Sampling of Moshi's own model that has no meaning here.
_IGNORED = (
    "text_topk",
    "audio_temperature",
    "audio_topk",
    "seed",
    "text_seed",
    "audio_seed",
    "pad_mult",
    "repetition_penalty",
    "repetition_penalty_context",
)
_PERSONAPLEX_VOICE = re.compile(r"(?:nat|var)([fm])(\d{1,2})")  # natural or varied, female or male
_SYSTEM = "<system>"  # around a prompt of PersonaPlex


def routes(agent: Agent, service: SpeechService) -> APIRouter:
    router = APIRouter()

    async def chat(socket: WebSocket) -> None:
        """Hold a conversation."""
        async with refusing(socket):
            session = Session().updated(session_of_keys(service, socket.scope))
            config = _config(by_voice_alone(session), socket.query_params, service.voices)
            await hold(agent, socket, lambda connection: _Chat(agent, service, connection, config))

    for path in MOSHI:
        router.websocket(path)(chat)
    return router


def _config(config: Config, query: Mapping[str, str], voices: Voices) -> Config:
    """`config` with what the query asks for. BadRequest names the parameter that is wrong."""
    for name in _IGNORED:
        _number(query, name)
    instructions = query.get("text_prompt", "").strip().removeprefix(_SYSTEM).removesuffix(_SYSTEM).strip()
    if instructions:
        config = replace(config, instructions=instructions)
    voice = query.get("voice_prompt", "").strip() or config.voice
    config = replace(config, voice=_voice(voice, voices))
    for name in ("text_temperature", "temperature"):
        if (temperature := _number(query, name)) is not None:
            if not 0 <= temperature <= TEMPERATURE_MAX:
                raise BadRequest(f"{name} must be from 0 to {TEMPERATURE_MAX:g}.", param=name)
            config = replace(config, temperature=temperature)
    return config


def _number(query: Mapping[str, str], name: str) -> float | None:
    if not (given := query.get(name)):
        return None
    with suppress(ValueError):
        if math.isfinite(number := float(given)):
            return number
    raise BadRequest(f"{name} must be a number, not {given[:40]!r}.", param=name)


def _voice(name: str, voices: Voices) -> str:
    """The voice of a name of ours or of OpenAI's, or of PersonaPlex's files: one of the same gender."""
    stem = re.sub(r"\.(pt|wav|safetensors)$", "", name, flags=re.IGNORECASE)
    if match := _PERSONAPLEX_VOICE.fullmatch(stem.lower()):
        gender = "female" if match[1] == "f" else "male"
        alike = [voice for voice in voices.all if voice.gender == gender] or voices.all
        return alike[int(match[2]) % len(alike)].id
    try:
        return voices.find(stem).id
    except BadRequest as error:
        raise BadRequest(f"voice_prompt: {error}", param="voice_prompt", code=error.code) from None


class _Player:
    """The agent's words and their sound, in the order and at the pace in which they are to be heard."""

    def __init__(self) -> None:
        self._queue: deque[str | NDArray[np.int16]] = deque()

    def add(self, part: str | NDArray[np.int16]) -> None:
        self._queue.append(part)

    def clear(self) -> None:
        self._queue.clear()

    def next(self) -> tuple[list[str], NDArray[np.int16]]:
        """The words that begin in the next frame, and its samples."""
        words: list[str] = []
        parts: list[NDArray[np.int16]] = []
        missing = FRAME_SAMPLES
        while self._queue and missing:
            first = self._queue.popleft()
            if isinstance(first, str):
                words.append(first)
                continue
            parts.append(first[:missing])
            if len(first) > missing:
                self._queue.appendleft(first[missing:])
            missing -= len(parts[-1])
        return words, np.concatenate([*parts, np.zeros(missing, np.int16)])


class _Chat(Wire):
    """One connection."""

    max_quiet_s = MAX_QUIET_S

    def __init__(self, agent: Agent, service: SpeechService, connection: Connection, config: Config) -> None:
        super().__init__(agent, service, connection)
        self._config = config
        self._reader = OpusReader()
        self._writer = OggOpusWriter()
        self._player = _Player()
        self._item_id = ""  # whose words were told last
        self._paused = False

    @property
    def config(self) -> Config:
        return self._config

    async def read(self, conversation: Conversation) -> None:
        self._send(Kind.HANDSHAKE)
        about = {"instance_name": "orpheus", "version": __version__, "voice": self._config.voice}
        self._send(Kind.METADATA, json.dumps(about).encode())
        await first_of(self._listen(conversation), self._play())

    async def _listen(self, conversation: Conversation) -> None:
        while True:
            message = await self.connection.receive()
            try:
                if isinstance(message, str):
                    raise BadRequest("Send binary frames, with the kind of the message in the first byte.")
                if message:
                    await self._handle(conversation, message[0], message[1:])
            except OrpheusError as error:
                self.fail(error)
            await self.outbox.room()

    async def _handle(self, conversation: Conversation, kind: int, payload: bytes) -> None:
        match kind:
            case Kind.AUDIO:
                await pour(self._reader, payload, self._hear)
            case Kind.CONTROL:
                self._control(conversation, payload)
            case Kind.SAY:
                if self._paused:  # it would wait in memory, for however long
                    raise BadRequest(
                        "The agent is paused: send control (kind 3) 0, start, before a text to say."
                    )
                try:
                    conversation.say(payload.decode())
                except UnicodeDecodeError:
                    raise BadRequest("A text to say (kind 7) must be UTF-8.") from None
            case Kind.HANDSHAKE | Kind.TEXT | Kind.METADATA | Kind.ERROR | Kind.PING:
                pass  # as Moshi's servers do
            case _:
                raise BadRequest(
                    f"There is no kind {kind}: send 1 (Ogg-Opus), 3 (control) or 7 (a text to say)."
                )

    async def _hear(self, samples: Samples) -> None:
        if not self._paused and self.conversation is not None:
            await self.conversation.hear(samples)

    def _control(self, conversation: Conversation, payload: bytes) -> None:
        match list(payload):
            case [Control.START]:
                self._paused = False
            case [Control.END_TURN]:
                if conversation.hears_speech:
                    conversation.commit()
                    conversation.interrupt()
                    with suppress(BadRequest):  # what waits already will answer it
                        conversation.respond(Ask(conversation.config))
            case [Control.PAUSE]:
                self._paused = True
                conversation.clear()
                conversation.interrupt()
            case [Control.RESTART]:
                self._paused = False
                conversation.forget()
            case _:
                raise BadRequest("Control (kind 3) is one byte: 0 start, 1 endTurn, 2 pause, 3 restart.")

    # To the client

    async def _play(self) -> None:
        """The stream, in real time."""
        due_s = time.monotonic()
        while True:
            words, samples = self._player.next() if not self._paused else ([], SILENCE)
            for word in words:
                self._send(Kind.TEXT, word.encode())
            self._send(Kind.AUDIO, self._writer.write(samples))
            await self.outbox.room()
            due_s = max(due_s + FRAME_S, time.monotonic() - LATE_S)
            await asyncio.sleep(due_s - time.monotonic())

    def tell(self, event: told.Event) -> None:
        match event:
            case told.UserStarted(interrupts=True) | told.OutputCleared():
                self._player.clear()
            case told.TextAdded(_, _, item_id, _, text):
                begins, self._item_id = item_id != self._item_id, item_id
                self._player.add(f" {text.lstrip()}" if begins else text)
            case told.AudioAdded(_, _, _, pcm):
                self._player.add(np.frombuffer(pcm, "<i2"))
            case told.Failed(error):
                self.fail(error)

    def fail(self, error: OrpheusError) -> None:
        self._send(Kind.ERROR, str(error).encode())

    def keep_alive(self) -> None:
        if self.conversation is not None:  # the handshake comes first
            self._send(Kind.PING)

    def _send(self, kind: Kind, payload: bytes = b"") -> None:
        self.outbox.put(bytes([kind]) + payload)
