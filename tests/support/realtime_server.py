"""A scripted server of OpenAI's Realtime protocol (GA): what the page's Talk tab and clients/realtime.py talk to.

It hears loudness instead of speech and answers with tones instead of a voice, with the events of a real one in their
order, and is interrupted as a real one is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

RATE = 24_000  # Hz, both ways
FRAME_MS = 20
FRAME_BYTES = RATE * FRAME_MS // 1000 * 2
LOUD = 600  # root mean square of 16-bit samples
STARTS_MS, ENDS_MS, PREFIX_MS = 60, 500, 300
LEAD_S = 1.0  # audio ahead of real time
SECRET = "ek_scripted"


@dataclass(frozen=True)
class Answer:
    """What one turn is answered with: words, each with a second's share of a tone of 16-bit samples."""

    text: str
    value: int = 3000
    word_s: float = 0.25


class ScriptedRealtime:
    """Tests set what it hears and answers, and read what it was sent."""

    def __init__(self) -> None:
        self.heard: list[
            str | None
        ] = []  # transcripts of the next turns, None of no turn; then "What did I say?"
        self.answers: list[Answer] = []  # of the next turns; then a short one
        self.stages: dict[str, float | None] = {  # begun 80 ms before the end of the turn was certain
            "vad_ms": 500,
            "stt_ms": 140,
            "llm_first_token_ms": 90,
            "first_clause_ms": 60,
            "first_audio_ms": 70,
            "end_to_audio_ms": 780,
        }
        self.keys: set[str] = set()  # empty: none is needed
        self.refusal: tuple[int, str] | None = None  # close code and reason, after the connection is accepted
        self.full_s: int | None = None  # no connection is accepted for so long
        self.received: list[dict[str, Any]] = []  # by all connections, without audio
        self.audio = bytearray()  # by all connections
        self.sent: list[dict[str, Any]] = []
        self.opened = self.refused = 0
        self.sessions: list[Session] = []  # open ones

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/realtime/client_secrets", self._secret, methods=["POST"]),
            Route("/v1/realtime", self._why_not),
            WebSocketRoute("/v1/realtime", self._connect),
        ]

    def types(self) -> list[str]:
        return [event["type"] for event in self.received]

    def drop(self, code: int | None = None) -> None:
        """Break every connection off, as a server that is stopped does, or close it with `code`. From any thread."""
        for session in list(self.sessions):
            session.loop.call_soon_threadsafe(session.drop, code)

    async def _secret(self, request: Request) -> JSONResponse:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.keys and given not in self.keys:
            error = {
                "message": "No.",
                "type": "authentication_error",
                "param": None,
                "code": "invalid_api_key",
            }
            return JSONResponse({"error": error}, 401)
        return JSONResponse({"value": SECRET, "expires_at": 4_000_000_000, "session": {"type": "realtime"}})

    async def _why_not(self, request: Request) -> JSONResponse:
        return JSONResponse({}, 400) if self.full_s is None else self._full()

    def _full(self) -> JSONResponse:
        error = {"message": "Full.", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
        return JSONResponse({"error": error}, 429, headers={"Retry-After": str(self.full_s)})

    async def _connect(self, socket: WebSocket) -> None:
        offered = socket.scope["subprotocols"]
        keys = {one.partition("openai-insecure-api-key.")[2] for one in offered}
        keys.add(socket.headers.get("authorization", "").removeprefix("Bearer "))
        if self.keys and not keys & {*self.keys, SECRET}:
            await socket.close(1008)
            return
        if self.full_s is not None:
            self.refused += 1
            await socket.send_denial_response(self._full())
            return
        await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        self.opened += 1
        if self.refusal is not None:
            await socket.close(*self.refusal)
            return
        session = Session(self, socket)
        self.sessions.append(session)
        try:
            await session.run()
        finally:
            self.sessions.remove(session)

    def next_heard(self) -> str | None:
        return self.heard.pop(0) if self.heard else "What did I say?"

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if self.answers else Answer("You said something.")


class Session:
    """One connection."""

    def __init__(self, script: ScriptedRealtime, socket: WebSocket) -> None:
        self.loop = asyncio.get_running_loop()
        self._script = script
        self._socket = socket
        self._numbers = itertools.count()
        self._frames = bytearray()
        self._position_ms = 0
        self._loud_ms = self._quiet_ms = 0
        self._user: str | None = None  # id of the item that is being said
        self._last: str | None = None
        self._answering: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._session: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_1",
            "model": "orpheus",
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": RATE},
                    "transcription": None,
                    "noise_reduction": None,
                    "turn_detection": {
                        "type": "server_vad",
                        "create_response": True,
                        "interrupt_response": True,
                    },
                },
                "output": {"format": {"type": "audio/pcm", "rate": RATE}, "voice": "tara", "speed": 1.0},
            },
        }

    async def run(self) -> None:
        self._running = asyncio.current_task()
        try:
            await self._send("session.created", session=self._session)
            while True:
                event = json.loads(await self._socket.receive_text())
                if event["type"] != "input_audio_buffer.append":
                    self._script.received.append(event)
                await self._receive(event)
        except (WebSocketDisconnect, RuntimeError):
            pass  # RuntimeError: a send after the end
        finally:
            if self._answering is not None:
                self._answering.cancel()

    def drop(self, code: int | None) -> None:
        assert self._running is not None
        if code is None:
            self._running.cancel()
        else:
            self._closing = asyncio.ensure_future(self._socket.close(code))

    async def _receive(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.update":
                merge(self._session, event["session"])
                await self._send("session.updated", session=self._session)
            case "input_audio_buffer.append":
                await self._hear(base64.b64decode(event["audio"]))
            case "conversation.item.create":
                item = {"object": "realtime.item", "status": "completed", **event["item"]}
                item.setdefault("id", self._id("item"))
                await self._add(item)
            case "conversation.item.truncate":
                fields = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
                await self._send("conversation.item.truncated", **fields)
            case "response.create":
                if self._answering is not None:
                    await self._error("conversation_already_has_active_response", "An answer is in progress.")
                else:
                    self._answer()
            case "response.cancel":
                if self._answering is None:
                    message = "Cancellation failed: no active response found"
                    await self._error("response_cancel_not_active", message)
                else:
                    await self._interrupt("client_cancelled")

    async def _hear(self, data: bytes) -> None:
        self._script.audio += data
        self._frames += data
        while len(self._frames) >= FRAME_BYTES:
            frame = np.frombuffer(self._frames[:FRAME_BYTES], "<i2").astype(np.float64)
            del self._frames[:FRAME_BYTES]
            self._position_ms += FRAME_MS
            loud = float(np.sqrt(np.mean(frame**2))) > LOUD
            self._loud_ms = self._loud_ms + FRAME_MS if loud else 0
            self._quiet_ms = 0 if loud else self._quiet_ms + FRAME_MS
            if self._user is None and self._loud_ms >= STARTS_MS:
                await self._start_turn()
            elif self._user is not None and self._quiet_ms >= ENDS_MS:
                await self._end_turn(self._user)

    async def _start_turn(self) -> None:
        self._user = self._id("item")
        start_ms = max(0, self._position_ms - self._loud_ms - PREFIX_MS)
        await self._send("input_audio_buffer.speech_started", item_id=self._user, audio_start_ms=start_ms)
        if self._answering is not None:
            await self._interrupt("turn_detected")

    async def _end_turn(self, item_id: str) -> None:
        self._user = None
        end_ms = self._position_ms - self._quiet_ms
        await self._send("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=end_ms)
        text = self._script.next_heard()
        if text is None:
            await self._send("input_audio_buffer.cleared")
            return
        await self._send("input_audio_buffer.committed", item_id=item_id, previous_item_id=self._last)
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": item_id, "object": "realtime.item", "type": "message", "status": "completed"}
        await self._add({**item, "role": "user", "content": content})
        await self._send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item_id,
            content_index=0,
            transcript=text,
            usage={"type": "duration", "seconds": 1.0},
        )
        if text:
            self._answer()

    async def _add(self, item: dict[str, Any]) -> None:
        for done in ("added", "done"):
            await self._send(f"conversation.item.{done}", item=item, previous_item_id=self._last)
        self._last = item["id"]

    def _answer(self) -> None:
        answer = self._script.next_answer()
        self._answering = asyncio.create_task(self._speak(answer))

    async def _interrupt(self, reason: str) -> None:
        """Cut the answer off: its task sends what ends it."""
        assert self._answering is not None
        answering, self._answering = self._answering, None
        answering.cancel(reason)
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _speak(self, answer: Answer) -> None:
        response = {
            "id": self._id("resp"),
            "object": "realtime.response",
            "status": "in_progress",
            "status_details": None,
            "output": [],
            "conversation_id": "conv_1",
            "output_modalities": ["audio"],
            "audio": self._session["audio"],
            "usage": None,
            "metadata": None,
        }
        item_id, previous = self._id("item"), self._last
        said = ""
        item: dict[str, Any] = {"id": item_id, "object": "realtime.item", "type": "message"}
        item |= {"status": "in_progress", "role": "assistant", "content": []}
        at: dict[str, Any] = {"response_id": response["id"], "item_id": item_id}
        at |= {"output_index": 0, "content_index": 0}
        out = {"response_id": response["id"], "output_index": 0}
        status: dict[str, Any] = {"status": "completed", "status_details": None}
        await self._send("response.created", response=response)
        await self._send("response.output_item.added", **out, item=item)
        await self._send("conversation.item.added", item=item, previous_item_id=previous)
        await self._send("response.content_part.added", **at, part={"type": "audio", "transcript": ""})
        try:
            began_s, sent_s = self.loop.time(), 0.0
            for word in words_of(answer.text):
                await self._send("response.output_audio_transcript.delta", **at, delta=word)
                said += word
                for chunk in tone(answer.value, answer.word_s):
                    delta = base64.b64encode(chunk).decode()
                    await self._send("response.output_audio.delta", **at, delta=delta)
                    sent_s += len(chunk) / 2 / RATE
                    await asyncio.sleep(max(0, began_s + sent_s - LEAD_S - self.loop.time()))
        except asyncio.CancelledError as cancelled:
            if not cancelled.args:
                raise  # the connection has ended
            details = {"type": "cancelled", "reason": cancelled.args[0]}
            status = {"status": "cancelled", "status_details": details}
        else:
            self._answering = None
        part = {"type": "audio", "transcript": said}
        item["status"] = "completed" if status["status"] == "completed" else "incomplete"
        item["content"] = [{"type": "output_audio", "transcript": said}]
        self._last = item_id
        await self._send("response.output_audio.done", **at)
        await self._send("response.output_audio_transcript.done", **at, transcript=said)
        await self._send("response.content_part.done", **at, part=part)
        await self._send("conversation.item.done", item=item, previous_item_id=previous)
        await self._send("response.output_item.done", **out, item=item)
        usage = {"total_tokens": 2, "input_tokens": 1, "output_tokens": 1}
        done = {**response, **status, "output": [item], "usage": usage, "orpheus": self._script.stages}
        await self._send("response.done", response=done)

    async def _error(self, code: str, message: str) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": message}
        await self._send("error", error={**error, "param": None, "event_id": None})

    async def _send(self, type: str, **fields: Any) -> None:
        event = {"type": type, "event_id": self._id("event"), **fields}
        self._script.sent.append(event)
        await self._socket.send_text(json.dumps(event))

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"


def words_of(text: str) -> list[str]:
    """With the spaces before them."""
    return [f"{' ' if index else ''}{word}" for index, word in enumerate(text.split())]


def tone(value: int, seconds: float, chunk_s: float = 0.1) -> Iterator[bytes]:
    samples = np.full(round(seconds * RATE), value, "<i2").tobytes()
    size = round(chunk_s * RATE) * 2
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def merge(into: dict[str, Any], update: dict[str, Any]) -> None:
    """Nested objects field by field; null counts."""
    for name, value in update.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value
