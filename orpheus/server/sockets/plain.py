"""`WS /v1/audio/speech/stream/ws` and `/ws`: text in, raw samples out, closed when everything is spoken.

Takes the three message formats of its clients: plain text frames, JSON and msgpack. Binary frames hold 16-bit
little-endian mono samples at 24 kHz, an even number of bytes and at most 64 KiB each; close code 1000 is the only sign
that speech is complete. Text frames are sent only with `events=json` in the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, WebSocket

from orpheus.errors import BadRequest, OrpheusError
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import SAMPLE_RATE, Connection, serve
from orpheus.server.sockets.events import error_json, event_json
from orpheus.server.sockets.messages import read_json, read_msgpack
from orpheus.server.utterance_queue import Audio, Event, UtteranceFailed, UtteranceQueue
from orpheus.tasks import first_of
from orpheus.tts.encode import SPEED_MAX, SPEED_MIN
from orpheus.voices import DEFAULT_VOICE

MAX_FRAME_BYTES = 64 * 1024  # even, so that no sample is split


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()

    @router.websocket("/v1/audio/speech/stream/ws")
    @router.websocket("/ws")
    async def stream(socket: WebSocket) -> None:
        """Speak the text frames with the query's `voice` and `speed`."""
        await socket.accept()
        connection = Connection(socket)
        await serve(connection, _run(service, connection))

    return router


async def _run(service: SpeechService, connection: Connection) -> None:
    events = connection.socket.query_params.get("events") == "json"
    try:
        query = _parse_query(connection.socket.query_params)
        stream = _PlainStream(service, connection, query, events)
        await first_of(stream.read(), stream.utterances.run(), connection.keep_alive(stream.keep_alive))
    except OrpheusError as error:
        if events:
            await connection.send(error_json(error))
        raise


@dataclass(frozen=True)
class _PlainQuery:
    """What the URL asks for."""

    request: SpeechRequest
    close: str | None  # "done" | "eos" | None: decided by each message
    lead_s: float | None


class _PlainStream:
    """One connection."""

    def __init__(
        self, service: SpeechService, connection: Connection, query: _PlainQuery, events: bool
    ) -> None:
        service.params(query.request)  # reports an error in the query before any text,
        _ = service.pipeline  # and a service that is not ready
        self.utterances = UtteranceQueue(service, self._emit, query.lead_s)
        self._connection = connection
        self._query = query
        self._events = events

    async def read(self) -> None:
        while True:
            message = await self._connection.receive()
            if not self.utterances.ended:  # after Eos nothing is wanted but the client's leaving
                self._handle(_parse_message(message))

    def _handle(self, message: _PlainMessage) -> None:
        self._connection.has_text = True
        if message.text is None:
            self.utterances.close()
            return
        request = self._query.request
        if message.voice:
            request = request.model_copy(update={"voice": message.voice})
        whole = self._query.close == "done" or (self._query.close is None and message.plain)
        self.utterances.add_text(message.text, request, word=True, may_join=whole)
        if whole:
            self.utterances.close(final=False)

    async def keep_alive(self) -> None:
        if self._events:
            await self._connection.send('{"type": "session.keepalive"}')

    async def _emit(self, event: Event) -> None:
        if isinstance(event, Audio):
            for start in range(0, len(event.data), MAX_FRAME_BYTES):
                await self._connection.send_audio(event.data[start : start + MAX_FRAME_BYTES])
        elif isinstance(event, UtteranceFailed):
            raise event.error
        elif self._events:
            await self._connection.send(event_json(event, "pcm"))


def _parse_query(query: Mapping[str, str]) -> _PlainQuery:
    format = query.get("response_format", "pcm").strip().lower()
    if format not in ("pcm", ""):
        raise BadRequest(
            "This WebSocket sends only pcm: omit response_format, or use /v1/audio/speech.",
            param="response_format",
        )
    close = query.get("close")
    if close not in (None, "done", "eos"):
        raise BadRequest(
            "close must be 'done' (once the text sent so far is spoken) or 'eos' (after Eos).", param="close"
        )
    request = SpeechRequest(
        input="",
        voice=query.get("voice", DEFAULT_VOICE),
        response_format="pcm",
        speed=_parse_number(query, "speed", 1.0, SPEED_MIN, SPEED_MAX) or 1.0,
        sample_rate=SAMPLE_RATE,
        stage_directions=_parse_directions(query),
    )
    return _PlainQuery(request, close, _parse_number(query, "lead_s", None, 0, 3600))


def _parse_directions(query: Mapping[str, str]) -> Literal["read", "skip"]:
    match query.get("stage_directions") or "read":
        case "read":
            return "read"
        case "skip":
            return "skip"
    raise BadRequest("stage_directions must be 'read' or 'skip'.", param="stage_directions")


def _parse_number(
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
class _PlainMessage:
    text: str | None  # None: end of text
    plain: bool = False  # a text frame without JSON
    voice: str | None = None


def _parse_message(message: str | bytes) -> _PlainMessage:
    """A message in any of the three formats."""
    if isinstance(message, bytes):
        return _parse_map(_unpack(message)) if message != b"\0" else _PlainMessage(None)
    start = message.lstrip()
    if start.startswith("{") and '"type"' in start:
        body = read_json(message)
        if body is None:
            raise BadRequest("This text frame starts like JSON but is not valid JSON.", code="invalid_json")
        return _parse_map(body)
    return _PlainMessage(message if start else None, plain=True)


def _unpack(message: bytes) -> dict[str, Any]:
    body = read_msgpack(message, ("type", "text", "voice"))
    if body is None:
        raise BadRequest(
            "This binary frame is not valid msgpack: send a map of type Text, with a 'text' string, or of type Eos.",
            code="invalid_msgpack",
        )
    return body


def _parse_map(body: dict[str, Any]) -> _PlainMessage:
    kind = body.get("type")
    kind = kind.lower() if isinstance(kind, str) else None
    if kind == "eos":
        return _PlainMessage(None)
    if kind != "text" or not isinstance(body.get("text"), str):
        raise BadRequest("A message must be of type Text, with a 'text' string, or of type Eos.")
    voice = body.get("voice")
    return _PlainMessage(body["text"], voice=voice if isinstance(voice, str) else None)
