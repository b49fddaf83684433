"""`WS /v1/audio/speech/stream/ws` and `/ws`: text in, nothing but samples out, closed when all is said.

The first attempt's contract, in the three dialects its clients have spoken: plain text frames, JSON, msgpack.
Binary frames hold 16-bit little-endian mono samples at 24 kHz, an even number of bytes and at most 64 KiB each; 1000
is the only end of speech there is. Text frames are sent only where `events=json` asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
from fastapi import APIRouter, WebSocket

from orpheus.errors import BadRequest, OrpheusError
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import SAMPLE_RATE, Connection, serve
from orpheus.server.sockets.events import error_json, event_json
from orpheus.server.utterance_queue import Audio, Event, UtteranceFailed, UtteranceQueue
from orpheus.tasks import first_of
from orpheus.tts.encode import SPEED_MAX, SPEED_MIN
from orpheus.voices import DEFAULT_VOICE

MOST_BYTES = 64 * 1024  # a frame; even, so that no sample is cut


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()

    @router.websocket("/v1/audio/speech/stream/ws")
    @router.websocket("/ws")
    async def stream(socket: WebSocket) -> None:
        """Speak the text frames with the query's `voice` and `speed`."""
        await socket.accept()
        connection = Connection(socket)
        await serve(connection, _hold(service, connection))

    return router


async def _hold(service: SpeechService, connection: Connection) -> None:
    events = connection.socket.query_params.get("events") == "json"
    try:
        query = _parsed_query(connection.socket.query_params)
        stream = _Stream(service, connection, query, events)
        await first_of(stream.read(), stream.utterances.run(), connection.keep_alive(stream.still_here))
    except OrpheusError as error:
        if events:
            await connection.send(error_json(error))
        raise


@dataclass(frozen=True)
class _Query:
    """What the address asks for."""

    request: SpeechRequest
    close: str | None
    lead_s: float | None


class _Stream:
    def __init__(self, service: SpeechService, connection: Connection, query: _Query, events: bool) -> None:
        service.params(query.request)  # reports an error in the query before any text
        self.utterances = UtteranceQueue(service, self._emit, query.lead_s)
        self._connection = connection
        self._query = query
        self._events = events

    async def read(self) -> None:
        while True:
            self._take(_parsed(await self._connection.receive()))

    def _take(self, message: _Message) -> None:
        self._connection.asked = True
        if message.text is None:
            self.utterances.close()
            return
        request = self._query.request
        if message.voice:
            request = request.model_copy(update={"voice": message.voice})
        whole = self._query.close == "done" or (self._query.close is None and message.plain)
        self.utterances.add_text(message.text, request, word=True, may_join=whole)
        if whole:
            self.utterances.close()

    async def still_here(self) -> None:
        if self._events:
            await self._connection.send('{"type": "session.keepalive"}')

    async def _emit(self, event: Event) -> None:
        if isinstance(event, Audio):
            for start in range(0, len(event.data), MOST_BYTES):
                await self._connection.send_audio(event.data[start : start + MOST_BYTES])
        elif isinstance(event, UtteranceFailed):
            raise event.error
        elif self._events:
            await self._connection.send(event_json(event, "pcm"))


def _parsed_query(query: Mapping[str, str]) -> _Query:
    format = query.get("response_format", "pcm")
    if format != "pcm":
        raise BadRequest(
            "This socket sends pcm only: leave response_format out, or use /v1/audio/speech.",
            param="response_format",
        )
    close = query.get("close")
    if close not in (None, "done", "eos"):
        raise BadRequest("close is 'done' (after what was sent is said) or 'eos' (after Eos).", param="close")
    request = SpeechRequest(
        input="",
        voice=query.get("voice", DEFAULT_VOICE),
        response_format="pcm",
        speed=_number(query, "speed", 1.0, SPEED_MIN, SPEED_MAX) or 1.0,
        sample_rate=SAMPLE_RATE,
    )
    return _Query(request, close, _number(query, "lead_s", None, 0, 3600))


def _number(
    query: Mapping[str, str], name: str, default: float | None, least: float, most: float
) -> float | None:
    try:
        number = float(query[name]) if query.get(name) else default
    except ValueError:
        number = least - 1
    if number is not None and not least <= number <= most:
        raise BadRequest(f"{name} must be a number between {least} and {most}.", param=name)
    return number


@dataclass(frozen=True)
class _Message:
    text: str | None  # None: no more comes
    plain: bool = False
    voice: str | None = None


def _parsed(message: str | bytes) -> _Message:
    """A message in whichever of the three dialects it is."""
    if isinstance(message, bytes):
        return _typed(_unpacked(message)) if message != b"\0" else _Message(None)
    start = message.lstrip()
    if start.startswith("{") and '"type"' in start:
        try:
            return _typed(json.loads(message))
        except (ValueError, RecursionError):
            raise BadRequest("This text frame begins as JSON and is none.", code="invalid_json") from None
    return _Message(message if start else None, plain=True)


def _unpacked(message: bytes) -> Any:
    try:
        return msgpack.unpackb(message)
    except Exception:  # its errors have no common base
        raise BadRequest("This binary frame is no msgpack.", code="invalid_msgpack") from None


def _typed(body: Any) -> _Message:
    kind = str(body.get("type", "")).lower() if isinstance(body, dict) else ""
    if kind == "eos":
        return _Message(None)
    if kind != "text" or not isinstance(body.get("text"), str):
        raise BadRequest("Messages are of type Text, with a text, or Eos.")
    voice = body.get("voice")
    return _Message(body["text"], voice=voice if isinstance(voice, str) else None)
