"""`WS /v1/realtime`: OpenAI's Realtime protocol (GA), for any of its clients; those of its beta by way of beta.py.

    ▶ session.update  input_audio_buffer.append …  conversation.item.create …  response.create  response.cancel
    ◀ session.created  input_audio_buffer.speech_started …  conversation.item.added …  response.output_audio.delta …  error

Also at `/realtime`, which some clients make of their base URL, and at `/ws` for who offers the subprotocol `realtime`.
`POST /v1/realtime/client_secrets` gives a browser a key of its own.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request, WebSocket
from pydantic import BaseModel, Field
from starlette.routing import Match, WebSocketRoute
from starlette.types import Scope

from orpheus.agent import events as told
from orpheus.agent.agent import Agent
from orpheus.agent.audio import InputStream, OutputStream
from orpheus.agent.conversation import Conversation
from orpheus.agent.events import OUTPUT_RATE, Config, ResponseState
from orpheus.agent.sockets import beta, unmute_frontend
from orpheus.agent.sockets.realtime_schema import (
    Format,
    ItemBody,
    ResponseBody,
    Session,
    item_body,
    json_text,
    parse,
    part_body,
)
from orpheus.agent.sockets.wire import MAX_SESSION_S, Wire, audio_bytes, hold, refusing, session_of_keys
from orpheus.errors import BadRequest, NotReady, OrpheusError
from orpheus.server.auth import KEY_INDEX
from orpheus.server.client_secrets import LIFE_S, LIFE_S_MAX, LIFE_S_MIN
from orpheus.server.offers import asks_for_beta, asks_for_realtime, realtime_answer
from orpheus.server.openapi import errors
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import Connection
from orpheus.server.sockets.messages import read_json

PATHS = ("/v1/realtime", "/realtime")
MAX_DELTA_BYTES = 48_000  # of audio in one event: a second
MAX_EVENT_ID_CHARS = 512


def routes(agent: Agent, service: SpeechService) -> APIRouter:
    router = APIRouter()

    async def converse(socket: WebSocket) -> None:
        """Hold a conversation."""
        await _converse(agent, service, socket)

    for path in PATHS:
        router.websocket(path)(converse)

    def mint(request: Request, changes: dict[str, Any], life_s: float) -> tuple[str, dict[str, Any]]:
        """An ephemeral key, and the session that it begins. BadRequest if that cannot be held."""
        session = Session().updated(changes)
        _check_voice(session.voice, service)
        secret = service.secrets.mint(changes, life_s, request.scope.get(KEY_INDEX))
        expires_at = int(secret.expires_s)
        return secret.value, _session_body(session, service, id=_new_id("sess"), expires_at=expires_at)

    @router.post("/v1/realtime/client_secrets", responses=errors(400, 401, 429))
    async def client_secrets(request: Request, body: SecretBody | None = None) -> dict[str, Any]:
        """A key for one browser: it may open `/v1/realtime` with it, until it expires."""
        body = body or SecretBody()
        life_s = body.expires_after.seconds if body.expires_after else LIFE_S
        value, session = mint(request, body.session, life_s)
        return {"value": value, "expires_at": session["expires_at"], "session": session}

    @router.get("/v1/realtime", include_in_schema=False)
    async def why_not() -> None:
        """Browsers do not tell a page why a WebSocket was refused; this does, by HTTP."""
        agent.check_room()
        raise BadRequest("This is a WebSocket: open it with a client of OpenAI's Realtime API.")

    @router.post("/v1/realtime/sessions", responses=errors(400, 401, 429))
    async def beta_session(request: Request, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The same for a client of the beta; `body` is the flat session that its conversations begin with."""
        value, session = mint(request, beta.nested(body or {}), LIFE_S)
        secret = {"value": value, "expires_at": session["expires_at"]}
        return {**beta.flat(session), "client_secret": secret}

    return router


class OfferedRoute(WebSocketRoute):
    """`/ws` of the speech service is another protocol: this takes those who ask for Realtime there, and no one else."""

    def __init__(self, agent: Agent, service: SpeechService) -> None:
        async def converse(socket: WebSocket) -> None:
            await _converse(agent, service, socket)

        super().__init__("/ws", converse)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if not asks_for_realtime(scope):
            return Match.NONE, {}
        match, found = super().matches(scope)
        return match, {**found, "route": self}  # by which it is counted and logged


class ExpiresAfter(BaseModel):
    anchor: str = "created_at"
    seconds: int = Field(default=LIFE_S, ge=LIFE_S_MIN, le=LIFE_S_MAX)


class SecretBody(BaseModel):
    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] = Field(default={}, description="as in session.update")


async def _converse(agent: Agent, service: SpeechService, socket: WebSocket) -> None:
    async with refusing(socket):
        changes: dict[str, Any] = {"model": model} if (model := socket.query_params.get("model")) else {}
        session = Session().updated(changes | session_of_keys(service, socket.scope))
        in_beta = asks_for_beta(socket.scope)

        def make(connection: Connection) -> Wire:
            return _RealtimeSession(agent, service, connection, session, in_beta)

        if unmute_frontend.may_be_unmute(socket.scope):
            await unmute_frontend.hold_either(agent, service, socket, make)
            return
        await hold(agent, socket, make, realtime_answer(socket.scope))


class _RealtimeSession(Wire):
    """One connection."""

    def __init__(
        self, agent: Agent, service: SpeechService, connection: Connection, session: Session, in_beta: bool
    ) -> None:
        super().__init__(agent, service, connection)
        self._session = session
        self._in_beta = in_beta
        self._id = _new_id("sess")
        self._ends_s = time.time() + MAX_SESSION_S
        self._begin_input()
        self._outputs: dict[str, tuple[Format, OutputStream]] = {}  # by response: what it was begun in

    @property
    def config(self) -> Config:
        return self._session.config()

    def begin(self) -> None:
        self._send("session.created", session=self._session_body())

    def keep_alive(self) -> None:
        self._send("rate_limits.updated", rate_limits=[])

    async def read(self, conversation: Conversation) -> None:
        while True:
            message = await self.connection.receive()
            event_id = None
            try:
                body = read_json(message) if isinstance(message, str) else None
                if body is None:
                    raise BadRequest(
                        "Messages must be text frames with a JSON object that has a 'type'.",
                        code="invalid_json",
                    )
                given = body.get("event_id")
                event_id = given[:MAX_EVENT_ID_CHARS] if isinstance(given, str) else None
                self._in_beta = self._in_beta or beta.is_flat(body)
                if self._in_beta:
                    body = beta.client_event(body)
                await self._handle(conversation, body, event_id)
            except OrpheusError as error:
                self.fail(error, event_id)
            await self.outbox.room()

    # Client events

    async def _handle(self, conversation: Conversation, body: dict[str, Any], event_id: str | None) -> None:
        match body.get("type"):
            case "session.update":
                self._update(conversation, _object(body, "session"))
            case "input_audio_buffer.append":
                await conversation.hear(self._input.add(audio_bytes(body.get("audio"), "audio")))
            case "input_audio_buffer.commit":
                self._begin_input()
                conversation.commit()
            case "input_audio_buffer.clear":
                self._begin_input()
                conversation.clear()
            case "conversation.item.create":
                self._create_item(conversation, body)
            case "conversation.item.retrieve":
                item = conversation.history.get(_id(body, "item_id"))
                self._send("conversation.item.retrieved", item=item_body(item))
            case "conversation.item.truncate":
                end_ms = body.get("audio_end_ms")
                if (
                    isinstance(end_ms, bool)
                    or not isinstance(end_ms, int | float)
                    or not -1e12 < end_ms < 1e12
                ):
                    raise BadRequest(
                        "audio_end_ms must be a number of milliseconds.",
                        param="audio_end_ms",
                        code="invalid_value",
                    )
                conversation.truncate(_id(body, "item_id"), round(end_ms))
            case "conversation.item.delete":
                conversation.delete_item(_id(body, "item_id"))
            case "response.create":
                response = ResponseBody() if body.get("response") is None else None
                if response is None:
                    response = cast(ResponseBody, parse(ResponseBody, _object(body, "response"), "response."))
                ask = response.ask(self._session, conversation.history.get, _new_id)
                _check_voice(ask.config.voice, self.service)
                conversation.respond(ask)
            case "response.cancel":
                response_id = body.get("response_id")
                conversation.cancel(response_id if isinstance(response_id, str) else None)
            case "output_audio_buffer.clear":
                conversation.silence()
            case other:
                raise BadRequest(
                    f"Invalid value: {str(other)[:60]!r}. Send an event of OpenAI's Realtime protocol.",
                    param="type",
                    code="invalid_value",
                )

    def _begin_input(self) -> None:
        """What comes next is another recording: half a sample of the one before is none of it."""
        self._input = InputStream(self._session.audio.input.format.wire)

    def _update(self, conversation: Conversation, changes: dict[str, Any]) -> None:
        session = self._session.updated(changes)
        _check_voice(session.voice, self.service)
        old, self._session = self._session, session
        if session.audio.input.format != old.audio.input.format:
            self._begin_input()
        conversation.configure(session.config())
        self._send("session.updated", session=self._session_body())

    def _create_item(self, conversation: Conversation, body: dict[str, Any]) -> None:
        given = cast(ItemBody, parse(ItemBody, _object(body, "item"), "item."))
        if given.type == "item_reference":
            raise BadRequest("item.type: an item_reference is for response.create.", param="item.type")
        if given.type != "message" and not given.call_id:
            raise BadRequest(
                "Missing required parameter: 'item.call_id'.",
                param="item.call_id",
                code="missing_required_parameter",
            )
        sounds = [
            audio_bytes(content.audio, "item.content")
            for content in given.content
            if content.type == "input_audio" and content.audio and not content.transcript
        ]
        stream = InputStream(self._session.audio.input.format.wire)
        samples = np.concatenate([stream.add(sound) for sound in sounds]) if sounds else None
        after = body.get("previous_item_id")
        conversation.create_item(
            given.item(_new_id("item")), after if isinstance(after, str) else None, samples
        )

    # Server events

    def tell(self, event: told.Event) -> None:
        for type, fields in self._messages(event):
            self._send(type, **fields)

    def _messages(self, event: told.Event) -> Iterator[tuple[str, dict[str, Any]]]:
        match event:
            case told.UserStarted(item_id, start_ms):
                yield "input_audio_buffer.speech_started", {"item_id": item_id, "audio_start_ms": start_ms}
            case told.UserStopped(item_id, end_ms):
                yield "input_audio_buffer.speech_stopped", {"item_id": item_id, "audio_end_ms": end_ms}
            case told.IdleTimeout(item_id, start_ms, end_ms):
                fields: dict[str, Any] = {"audio_start_ms": start_ms, "audio_end_ms": end_ms}
                yield "input_audio_buffer.timeout_triggered", {"item_id": item_id, **fields}
            case told.InputCommitted(item_id, previous_id):
                fields = {"item_id": item_id, "previous_item_id": previous_id}
                yield "input_audio_buffer.committed", fields
            case told.InputCleared():
                yield "input_audio_buffer.cleared", {}
            case told.ItemAdded(item, previous_id):
                fields = {"item": item_body(item), "previous_item_id": previous_id}
                yield "conversation.item.added", fields
            case told.ItemDone(item, previous_id):
                fields = {"item": item_body(item), "previous_item_id": previous_id}
                yield "conversation.item.done", fields
            case told.ItemTruncated(item_id, audio_end_ms):
                fields = {"item_id": item_id, "content_index": 0, "audio_end_ms": audio_end_ms}
                yield "conversation.item.truncated", fields
            case told.ItemDeleted(item_id):
                yield "conversation.item.deleted", {"item_id": item_id}
            case told.TranscriptAdded() | told.TranscriptDone() | told.TranscriptFailed():
                if self._session.audio.input.transcription is not None:
                    yield self._transcript(event)
            case told.Failed(error):
                yield "error", {"error": _error(error, None)}
            case told.ResponseStarted(response):
                format = self._session.audio.output.format
                self._outputs[response.id] = format, OutputStream(format.wire, OUTPUT_RATE)
                yield "response.created", {"response": self._response(response)}
            case told.ResponseDone(response):
                yield "response.done", {"response": self._response(response)}
                del self._outputs[response.id]
            case _:
                yield from self._output(event)

    def _transcript(
        self, event: told.TranscriptAdded | told.TranscriptDone | told.TranscriptFailed
    ) -> tuple[str, dict[str, Any]]:
        fields: dict[str, Any] = {"item_id": event.item_id, "content_index": 0}
        more: dict[str, Any]
        match event:
            case told.TranscriptAdded():
                name, more = "delta", {"delta": event.text}
            case told.TranscriptDone():
                usage = {"type": "duration", "seconds": round(event.audio_s, 3)}
                name, more = "completed", {"transcript": event.text, "usage": usage}
            case told.TranscriptFailed():
                name, more = "failed", {"error": event.error.body()["error"]}
        return f"conversation.item.input_audio_transcription.{name}", fields | more

    def _output(self, event: told.Event) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events of an item of a response."""
        match event:
            case told.OutputAdded(response_id, index, item) | told.OutputDone(response_id, index, item):
                name = "added" if isinstance(event, told.OutputAdded) else "done"
                fields = {"response_id": response_id, "output_index": index, "item": item_body(item)}
                yield f"response.output_item.{name}", fields
            case told.PartAdded(_, _, _, part):
                yield "response.content_part.added", _place(event) | {"part": part_body(part)}
            case told.TextAdded(_, _, _, kind, text):
                name = "output_audio_transcript" if kind == "audio" else "output_text"
                yield f"response.{name}.delta", _place(event) | {"delta": text}
            case told.AudioAdded(response_id):
                yield from self._audio(event, self._outputs[response_id][1].add(event.samples))
            case told.PartDone(response_id, _, _, part) if part.kind == "audio":
                if not event.cut:
                    yield from self._audio(event, self._outputs[response_id][1].flush())
                yield "response.output_audio.done", _place(event)
                yield "response.output_audio_transcript.done", _place(event) | {"transcript": part.text or ""}
                yield "response.content_part.done", _place(event) | {"part": part_body(part)}
            case told.PartDone(_, _, _, part):
                yield "response.output_text.done", _place(event) | {"text": part.text or ""}
                yield "response.content_part.done", _place(event) | {"part": part_body(part)}
            case told.ArgumentsAdded(response_id, index, item, text):
                fields = {"response_id": response_id, "item_id": item.id, "output_index": index}
                yield (
                    "response.function_call_arguments.delta",
                    fields | {"call_id": item.call_id, "delta": text},
                )
            case told.ArgumentsDone(response_id, index, item):
                fields = {"response_id": response_id, "item_id": item.id, "output_index": index}
                call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
                yield "response.function_call_arguments.done", fields | call

    def _audio(self, event: Any, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        for start in range(0, len(data), MAX_DELTA_BYTES):
            delta = base64.b64encode(data[start : start + MAX_DELTA_BYTES]).decode()
            yield "response.output_audio.delta", _place(event) | {"delta": delta}

    def _response(self, response: ResponseState) -> dict[str, Any]:
        ask, config = response.ask, response.ask.config
        details: dict[str, Any] | None = None
        if response.status not in ("in_progress", "completed"):
            details = {"type": response.status}
            if response.reason is not None:
                details["reason"] = response.reason
            if response.error is not None:
                error = response.error
                details["error"] = {
                    "type": error.type,
                    "code": error.code or error.type,
                    "message": error.message,
                }
        usage = None
        if response.status != "in_progress":
            usage = _usage(response)
        body = {
            "object": "realtime.response",
            "id": response.id,
            "status": response.status,
            "status_details": details,
            "output": [item_body(item) for item in response.output],
            "conversation_id": self.conversation.id if self.conversation and ask.kept else None,
            "output_modalities": [config.modality],
            "max_output_tokens": config.max_tokens or "inf",
            "audio": {
                "output": {
                    "format": self._outputs[response.id][0].json_body(),
                    "voice": _voice_id(config.voice, self.service),
                }
            },
            "usage": usage,
            "metadata": dict(ask.metadata) if ask.metadata is not None else None,
        }
        if response.status != "in_progress":
            body["orpheus"] = asdict(response.timings)
        return body

    def _session_body(self) -> dict[str, Any]:
        return _session_body(self._session, self.service, id=self._id, expires_at=int(self._ends_s))

    def fail(self, error: OrpheusError, event_id: str | None = None) -> None:
        self._send("error", error=_error(error, event_id))

    def _send(self, type: str, **fields: Any) -> None:
        event = {"type": type, "event_id": _new_id("event"), **fields}
        told = beta.server_event(event) if self._in_beta else event
        if told is not None:
            self.outbox.put(json_text(told))


def _session_body(session: Session, service: SpeechService, **more: Any) -> dict[str, Any]:
    body = session.body(**more)
    body["audio"]["output"]["voice"] = _voice_id(session.voice, service)
    return body


def _check_voice(name: str, service: SpeechService) -> None:
    """BadRequest if there is no such voice; while it is not known which there are, the first answer will tell."""
    with suppress(NotReady):
        service.voices.find(name)


def _voice_id(name: str, service: SpeechService) -> str:
    """The voice that a name stands for; the name itself while the model is not known, or if there is no such voice."""
    try:
        return service.voices.find(name).id
    except OrpheusError:
        return name


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def _place(event: Any) -> dict[str, Any]:
    return {
        "response_id": event.response_id,
        "item_id": event.item_id,
        "output_index": event.index,
        "content_index": 0,
    }


def _error(error: OrpheusError, event_id: str | None) -> dict[str, Any]:
    body = cast(dict[str, Any], error.body()["error"])
    return {**body, "code": body["code"] or body["type"], "event_id": event_id}


def _usage(response: ResponseState) -> dict[str, Any]:
    asked, answered = response.prompt_tokens, response.completion_tokens
    return {
        "total_tokens": asked + answered,
        "input_tokens": asked,
        "output_tokens": answered,
        "input_token_details": {"text_tokens": asked, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": answered, "audio_tokens": 0},
    }


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise BadRequest(
            f"Missing required parameter: '{name}', an object.",
            param=name,
            code="missing_required_parameter" if value is None else "invalid_value",
        )
    return value


def _id(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    return value
