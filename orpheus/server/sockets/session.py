"""`WS /v1/audio/speech/stream`: text in fragments of any size, audio as it is generated, any number of utterances.

vLLM's protocol of the same path, extended by `input.cancel`, word timestamps and errors that leave the connection open:

    ▶ session.config  input.text…  input.done  input.cancel  session.close
    ◀ audio.start  <binary>…  audio.word  audio.done  session.done  audio.cancelled  error  session.keepalive
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError

from orpheus.errors import BadRequest, OrpheusError
from orpheus.http.responses import first_complaint
from orpheus.server.schema import SessionConfig
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import Connection, serve
from orpheus.server.sockets.events import error_json, event_json
from orpheus.server.sockets.messages import read_json
from orpheus.server.utterance_queue import LEAD_S, Audio, Event, UtteranceQueue, WordStarted
from orpheus.tasks import first_of

MESSAGE_TYPES = "session.config, input.text, input.done, input.cancel, session.close"


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()

    @router.websocket("/v1/audio/speech/stream")
    async def stream(socket: WebSocket) -> None:
        """Speak each `input.text` as the last `session.config` asks."""
        await socket.accept()
        session = _Session(service, Connection(socket))
        await serve(session.connection, session.run())

    return router


class _Session:
    """One connection."""

    def __init__(self, service: SpeechService, connection: Connection) -> None:
        self.connection = connection
        self._service = service
        self._config = SessionConfig.model_validate({})
        self._configured = False  # by the client
        self._utterances = UtteranceQueue(service, self._emit)
        self._set_lead()

    async def run(self) -> None:
        await first_of(
            self._read(),
            self._utterances.run(),
            self.connection.keep_alive(lambda: self.connection.send('{"type": "session.keepalive"}')),
        )

    async def _read(self) -> None:
        while True:
            message = await self.connection.receive()
            try:
                parsed = _parse_message(message)
                if not self._utterances.ended or parsed.get("type") == "input.cancel":
                    await self._handle(parsed)
            except OrpheusError as error:
                if not self._utterances.ended:
                    await self.connection.send(error_json(error))

    async def _handle(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "session.config":
                try:
                    self._configure(message)
                except OrpheusError:
                    # As in vLLM an earlier config stays in force. Without one, what follows would be spoken in a voice
                    # and a format that nobody asked for: it is passed over, like refused text.
                    self._utterances.refuse_next(not self._configured)
                    raise
                self._configured = True
                self._utterances.refuse_next(False)
            case "input.text":
                text = message.get("text")
                if not isinstance(text, str):
                    raise BadRequest("input.text needs a 'text' field that is a string.", param="text")
                self.connection.has_text = True
                self._utterances.add_text(text, self._config)
            case "input.done":
                if not self._utterances.end_text():
                    raise BadRequest(
                        "input.done came before any text; send input.text first.", code="empty_input"
                    )
            case "input.cancel":
                if not await self._utterances.cancel():
                    await self.connection.send('{"type": "audio.cancelled"}')  # there was nothing to cancel
            case "session.close":
                self._utterances.close()
            case other:
                raise BadRequest(f"Unknown message type {str(other)[:60]!r}: send one of {MESSAGE_TYPES}.")

    def _configure(self, message: dict[str, Any]) -> None:
        if not self._utterances.idle:
            raise BadRequest(
                "session.config is accepted only between utterances: send it again after session.done."
            )
        try:
            config = SessionConfig.model_validate(message)
        except ValidationError as error:
            raise first_complaint(error) from None
        self._service.params(config)  # reports an unknown voice now, not with the first text,
        _ = self._service.pipeline  # and a service that is not ready
        self._config = config
        self._set_lead()

    def _set_lead(self) -> None:
        config = self._config
        lead_s = LEAD_S if config.lead_s is None else config.lead_s
        self._utterances.lead_s = (
            lead_s if config.stream_audio else 0.0
        )  # files are not played as they arrive

    async def _emit(self, event: Event) -> None:
        if isinstance(event, Audio):
            await self.connection.send_audio(event.data)
        elif self._config.word_timestamps or not isinstance(event, WordStarted):
            await self.connection.send(event_json(event, self._config.response_format))


def _parse_message(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise BadRequest("Messages must be text frames with a JSON object; this one is binary.")
    parsed = read_json(message)
    if parsed is None:
        raise BadRequest(
            f"A message must be a JSON object with a 'type', one of {MESSAGE_TYPES}.", code="invalid_json"
        )
    return parsed
