"""`WS /v1/twilio`: telephone calls, as Twilio's Media Streams bring them (`<Connect><Stream>`); also at `/media-stream`.

    ▶ connected  start  media …  dtmf  mark  stop
    ◀ media and a mark after it …  clear

Audio is µ-law at 8 kHz. Twilio plays what it gets in real time and sends a mark back once it has played what came before
it, so that the marks say what the caller has heard. The address of a stream can have no query and its request no header
of ours, so the key and the rest come as `<Parameter>`s, in `start`; or Twilio's signature stands for a key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.datastructures import Headers
from starlette.types import Scope

from orpheus.agent import events as told
from orpheus.agent.agent import Agent
from orpheus.agent.audio import TELEPHONE_RATE, AudioFormat, InputStream, OutputStream
from orpheus.agent.conversation import Conversation
from orpheus.agent.events import OUTPUT_RATE, Ask, Config
from orpheus.agent.history import Item, Part
from orpheus.agent.phrases import in_language
from orpheus.agent.sockets.realtime_schema import Session
from orpheus.agent.sockets.wire import Wire, audio_bytes, by_voice_alone, refusing, session_of_keys
from orpheus.errors import BadRequest, OrpheusError, Unauthorized
from orpheus.server.auth import KEY_INDEX, TWILIO
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import Connection, serve
from orpheus.server.sockets.messages import read_json

log = logging.getLogger(__name__)

START_S = 10.0  # Twilio sends `start` at once
MEDIA_BYTES = TELEPHONE_RATE // 10  # of a message to Twilio, a mark after each: the caller's place to 100 ms
DIGITS_S = 2.0  # without another key, after which the keys pressed are told; "#" ends them too
MAX_DIGITS = 64
KEYS = frozenset("0123456789*#ABCD")
MAX_MARKS = 1024  # on their way; a bridge that returns none must not cost memory
WHOLE_MS = 10**9  # beyond the end of any item
FORMAT, ENCODING = AudioFormat("pcmu", TELEPHONE_RATE), "audio/x-mulaw"

# Said first, in the language of the voice.
GREETINGS = {
    "en": "Hello! How can I help you?",
    "fr": "Bonjour ! Comment puis-je vous aider ?",
    "de": "Hallo! Wie kann ich Ihnen helfen?",
    "es": "¡Hola! ¿En qué puedo ayudarle?",
    "it": "Buongiorno! Come posso aiutarla?",
    "ko": "안녕하세요! 무엇을 도와드릴까요?",
    "hi": "नमस्ते! मैं आपकी क्या मदद कर सकती हूँ?",
    "zh": "您好！请问有什么可以帮您？",
}

# Said where the recogniser fails: a telephone shows no errors.
NOT_HEARD = {
    "en": "Sorry, I could not hear that. Please say it again.",
    "fr": "Désolé, je n'ai pas pu vous entendre. Pouvez-vous répéter ?",
    "de": "Entschuldigung, das konnte ich nicht hören. Bitte sagen Sie es noch einmal.",
    "es": "Lo siento, no he podido oírle. Repítalo, por favor.",
    "it": "Mi dispiace, non ho potuto sentirla. Può ripetere?",
    "ko": "죄송합니다. 잘 듣지 못했습니다. 다시 말씀해 주세요.",
    "hi": "माफ़ कीजिए, मैं सुन नहीं पाई। कृपया फिर से कहिए।",
    "zh": "抱歉，我没有听清。请您再说一遍。",
}


def routes(agent: Agent, service: SpeechService) -> APIRouter:
    router = APIRouter()

    async def answer(socket: WebSocket) -> None:
        """Answer a call."""
        async with refusing(socket):
            signed = _is_signed(service, socket.scope)
            await socket.accept()
            connection = Connection(socket, may_be_silent=True)
            await serve(connection, _answer(agent, service, connection, signed))

    for path in TWILIO:
        router.websocket(path)(answer)
    return router


def _is_signed(service: SpeechService, scope: Scope) -> bool:
    """Whether the request is Twilio's. Unauthorized if its signature is wrong."""
    token, headers = service.settings.twilio_auth_token, Headers(scope=scope)
    given = headers.get("x-twilio-signature")
    if token is None or given is None:
        return False
    hosts = [host.strip() for name in ("host", "x-forwarded-host") if (host := headers.get(name))]
    # Twilio signs the address as the TwiML has it, with the port or without, and with the slash that Leniency takes off.
    urls = [
        f"wss://{name}{scope['path']}{slash}"
        for host in hosts
        for name in (host, host.partition(":")[0], f"{host}:443")
        for slash in ("", "/")
    ]
    key = token.get_secret_value().encode()
    signatures = [base64.b64encode(hmac.digest(key, url.encode(), hashlib.sha1)) for url in urls]
    if not any([hmac.compare_digest(signature, given.encode()) for signature in signatures]):
        raise Unauthorized(
            f"X-Twilio-Signature is wrong for {', '.join(urls[::2]) or 'a request without Host'}: set "
            "ORPHEUS_TWILIO_AUTH_TOKEN to the auth token of the account that calls, and let the proxy in front pass "
            "the Host header and the path on.",
            code="invalid_signature",
        )
    return True


async def _answer(agent: Agent, service: SpeechService, connection: Connection, signed: bool) -> None:
    try:
        start = await _start(connection)
        parameters = start["customParameters"]
        with ExitStack() as held:
            key = parameters.get("api_key")
            if not (signed or KEY_INDEX in connection.socket.scope):
                _check_key(service, key, held)
            keys = [key] if isinstance(key, str) else []
            changes = session_of_keys(service, connection.socket.scope, *keys)
            config = _config(Session().updated(changes), parameters)
            call = _Call(agent, service, connection, start["streamSid"], config, parameters.get("greeting"))
            held.enter_context(agent.admitted())
            await call.run()
    except OrpheusError as error:  # whose sentence Twilio shows to nobody
        log.warning("a call was not answered, or broken off: %s", error)
        raise


async def _start(connection: Connection) -> dict[str, Any]:
    """What Twilio says of the call, a `streamSid` and `customParameters` among it. BadRequest if something else comes."""
    try:
        async with asyncio.timeout(START_S):
            while (message := _read(await connection.receive()))["event"] != "start":
                if message["event"] != "connected":
                    raise BadRequest("Send 'connected' and 'start' first, as Twilio's Media Streams do.")
    except TimeoutError:
        raise BadRequest(f"No 'start' of a Twilio Media Stream came within {START_S:g} s.") from None
    start = message.get("start")
    start = start if isinstance(start, dict) else {}
    stream, parameters = start.get("streamSid", message.get("streamSid")), start.get("customParameters") or {}
    if not isinstance(stream, str) or not isinstance(parameters, dict):
        raise BadRequest("'start' must have a streamSid, and an object of customParameters if there are any.")
    format = start.get("mediaFormat")
    if isinstance(format, dict) and format.get("encoding", ENCODING) != ENCODING:
        raise BadRequest(f"The call's audio is {str(format['encoding'])[:40]!r}: send {ENCODING} at 8000 Hz.")
    return {**start, "streamSid": stream, "customParameters": parameters}


def _check_key(service: SpeechService, key: Any, held: ExitStack) -> None:
    """Count the call for its key, where one is needed. Unauthorized or AtCapacity."""
    if not service.keys.needed and service.settings.twilio_auth_token is None:
        return
    index = service.keys.find([key] if isinstance(key, str) else [], ephemeral=True)
    if index is None:
        raise Unauthorized(
            "A call needs one of ORPHEUS_API_KEYS as <Parameter name='api_key'>, or ORPHEUS_TWILIO_AUTH_TOKEN set to "
            "know Twilio by its signature."
        )
    held.enter_context(service.keys.counted(index))


def _config(session: Session, parameters: Mapping[str, Any]) -> Config:
    """BadRequest if a parameter cannot be used. What the TwiML has besides is its author's."""
    given = {name: parameters[name] for name in ("instructions", "voice", "language") if name in parameters}
    changes: dict[str, Any] = {"audio": {}}
    if "instructions" in given:
        changes["instructions"] = given["instructions"]
    if "voice" in given:
        changes["audio"]["output"] = {"voice": given["voice"]}
    if "language" in given:
        changes["audio"]["input"] = {"transcription": {"language": given["language"]}}
    return by_voice_alone(session.updated(changes))


@dataclass(frozen=True)
class _Mark:
    """The end of a piece of audio: once it comes back, so much of the item was heard."""

    name: str
    item_id: str
    start_ms: float
    end_ms: float
    sent_s: float  # of time.monotonic


class _Playback:
    """What the caller has heard, by the marks that came back."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque(maxlen=MAX_MARKS)  # that have not
        self._last: _Mark | None = None  # that did
        self._last_s = 0.0
        self._count = 0

    def add(self, item_id: str, start_ms: float, end_ms: float) -> str:
        """The name of the mark to send after this piece of audio."""
        self._count += 1
        mark = _Mark(f"orpheus-{self._count}", item_id, start_ms, end_ms, time.monotonic())
        self._marks.append(mark)
        return mark.name

    def returned(self, name: str) -> None:
        if any(mark.name == name for mark in self._marks):  # others were cleared
            while (mark := self._marks.popleft()).name != name:
                pass
            self._last, self._last_s = mark, time.monotonic()

    def clear(self) -> dict[str, float]:
        """Milliseconds heard of the items of which that is known; what is not played by now never will be.

        The marks of it come back at once, and mean nothing.
        """
        heard: dict[str, float] = {}
        if self._last is not None:
            heard[self._last.item_id] = self._last.end_ms
            for index, mark in enumerate(self._marks):
                if index == 0:
                    played_ms = 1000 * (time.monotonic() - max(self._last_s, mark.sent_s))
                    heard[mark.item_id] = min(mark.end_ms, mark.start_ms + played_ms)
                heard.setdefault(mark.item_id, 0.0)
        self._marks.clear()
        self._last = None
        return heard


class _Call(Wire):
    """One call."""

    def __init__(
        self,
        agent: Agent,
        service: SpeechService,
        connection: Connection,
        stream: str,
        config: Config,
        greeting: Any,
    ) -> None:
        """`greeting`: what the TwiML says it is; None for the usual one."""
        super().__init__(agent, service, connection)
        self._stream = stream
        self._config = config
        self._language = service.voices.find(config.voice).language
        self._greeting = in_language(GREETINGS, self._language) if greeting is None else str(greeting)
        self._input = InputStream(FORMAT)
        self._output = OutputStream(FORMAT, OUTPUT_RATE)
        self._sent_bytes: dict[str, int] = {}  # by item, of the response in progress
        self._playback = _Playback()
        self._digits = ""
        self._pressed_s = 0.0

    @property
    def config(self) -> Config:
        return self._config

    async def read(self, conversation: Conversation) -> None:
        conversation.say(self._greeting)
        while True:
            message = _read(await self.connection.receive())
            match message["event"]:
                case "media":
                    media = _object(message, "media")
                    if media.get("track", "inbound") == "inbound":
                        await conversation.hear(
                            self._input.add(audio_bytes(media.get("payload"), "media.payload"))
                        )
                case "mark":
                    self._playback.returned(str(_object(message, "mark").get("name")))
                case "dtmf":
                    self._press(conversation, str(_object(message, "dtmf").get("digit")))
                case "stop":
                    return
            if self._digits and time.monotonic() - self._pressed_s > DIGITS_S:  # media comes every 20 ms
                self._tell_digits(conversation)
            await self.outbox.room()

    def _press(self, conversation: Conversation, digit: str) -> None:
        """A key silences the agent, as in any telephone menu."""
        if digit not in KEYS:
            return
        conversation.interrupt()
        self._digits += digit
        self._pressed_s = time.monotonic()
        if digit == "#" or len(self._digits) >= MAX_DIGITS:
            self._tell_digits(conversation)

    def _tell_digits(self, conversation: Conversation) -> None:
        text = f"(The caller pressed {' '.join(self._digits)} on the telephone.)"
        self._digits = ""
        conversation.create_item(Item(conversation.new_id("item"), content=(Part("text", text),)))
        conversation.interrupt()
        with suppress(BadRequest):  # what waits until the caller has spoken will answer this too
            conversation.respond(Ask(conversation.config))

    # To Twilio

    def tell(self, event: told.Event) -> None:
        match event:
            case told.UserStarted(interrupts=True) | told.OutputCleared():
                self._clear()
            case told.TranscriptFailed() if self.conversation is not None:
                with suppress(BadRequest):  # it has said so too often to be heard again
                    self.conversation.say(in_language(NOT_HEARD, self._language))
            case told.ResponseStarted():
                self._output = OutputStream(FORMAT, OUTPUT_RATE)
                self._sent_bytes.clear()
            case told.AudioAdded(_, _, item_id):
                self._play(item_id, self._output.add(event.samples))
            case told.PartDone(_, _, item_id, cut=False):
                self._play(item_id, self._output.flush(), last=True)

    def _play(self, item_id: str, audio: bytes, *, last: bool = False) -> None:
        for start in range(0, len(audio), MEDIA_BYTES):
            piece = audio[start : start + MEDIA_BYTES]
            begin = self._sent_bytes.get(item_id, 0)
            end = self._sent_bytes[item_id] = begin + len(piece)
            self._send("media", media={"payload": base64.b64encode(piece).decode()})
            self._mark(self._playback.add(item_id, _ms(begin), _ms(end)))
        if last and item_id in self._sent_bytes:
            self._mark(self._playback.add(item_id, _ms(self._sent_bytes[item_id]), WHOLE_MS))

    def _clear(self) -> None:
        """Empty Twilio's buffer, and let the history hold what the caller heard, where the marks tell."""
        self._send("clear")
        heard = self._playback.clear()
        if self.conversation is not None:
            for item_id, heard_ms in heard.items():
                with suppress(BadRequest):  # it was forgotten
                    self.conversation.truncate(item_id, round(heard_ms))

    def _mark(self, name: str) -> None:
        self._send("mark", mark={"name": name})

    def _send(self, event: str, **fields: Any) -> None:
        self.outbox.put(json.dumps({"event": event, "streamSid": self._stream, **fields}))

    def fail(self, error: OrpheusError) -> None:
        log.warning("a call ends: %s", error)

    def keep_alive(self) -> None:
        self._mark("orpheus")  # comes back, and says nothing


def _ms(size: int) -> float:
    return size * 1000 / TELEPHONE_RATE


def _read(message: str | bytes) -> dict[str, Any]:
    """A message of Twilio's, with its `event`. BadRequest if it is none."""
    body = read_json(message) if isinstance(message, str) else None
    if body is None or not isinstance(body.get("event"), str):
        raise BadRequest(
            "Messages must be text frames with a JSON object that has an 'event', as Twilio's have."
        )
    return body


def _object(message: dict[str, Any], name: str) -> dict[str, Any]:
    value = message.get(name)
    if not isinstance(value, dict):
        raise BadRequest(f"A message {name!r} must have an object {name!r}.")
    return value
