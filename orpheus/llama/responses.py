"""Completions over HTTP: one JSON body, or server-sent events.

An event holds one token, since clients written for llama-server and LM Studio read the last token of each event, or a
whole frame for a client that asks for token ids, as tier 2 does: a seventh of the events.

A client that leaves frees its stream at once. An error after the start of a stream is sent as an event, and then the
connection breaks off: no `[DONE]`, no last chunk of the body.
"""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from json.encoder import encode_basestring_ascii
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from orpheus.errors import OrpheusError
from orpheus.http.responses import while_connected
from orpheus.llama.completion import Completion, CompletionChunk
from orpheus.llama.detokenizer import IncrementalDetokenizer
from orpheus.llama.engine import Engine
from orpheus.llama.schema import CompletionRequest

CLIENT_CLOSED_REQUEST = 499  # nginx's status; nobody reads it


class CompletionResponse(ABC):
    """OpenAI's JSON for one completion. Kinds: BufferedCompletion, StreamedCompletion."""

    def __init__(
        self, request: CompletionRequest, completion: Completion, engine: Engine, model: str
    ) -> None:
        """Submit the completion. AtCapacity, NotReady or BadRequest if the engine does not accept it."""
        self.stream = engine.submit(completion)
        self._detokenizer = IncrementalDetokenizer(
            engine.token_bytes, request.text_stops, constrained=completion.constrained
        )
        self._return_token_ids = request.return_token_ids
        self._identity = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self.finished = False  # the finish reason is in what was made so far
        self._prompt_tokens = len(completion.prompt)
        self._completion_tokens = 0

    @abstractmethod
    async def start(self, receive: Receive) -> Response:
        """The response to return. Raises what fails before it has a status, and cancels if the client leaves."""

    def add(self, chunk: CompletionChunk) -> tuple[str, list[int], str | None]:
        """Text, token ids and finish reason of the next chunk; a stop string ends the completion too."""
        self._completion_tokens += len(chunk.ids)
        text = self._detokenizer.detokenize(chunk)
        return text, list(chunk.ids), "stop" if self._detokenizer.stopped else chunk.finish_reason

    def body(self, text: str, ids: list[int], finish_reason: str | None) -> dict[str, Any]:
        """The JSON object with its one choice; with the usage if the completion is finished."""
        choice: dict[str, Any] = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        if self._return_token_ids:
            choice["token_ids"] = ids
        body = {**self._identity, "choices": [choice]}
        if finish_reason is not None:
            body["usage"] = {
                "prompt_tokens": self._prompt_tokens,
                "completion_tokens": self._completion_tokens,
                "total_tokens": self._prompt_tokens + self._completion_tokens,
            }
        return body


class BufferedCompletion(CompletionResponse):
    """The complete text in one JSON body."""

    async def start(self, receive: Receive) -> Response:
        async with self.stream:
            try:
                return JSONResponse(await while_connected(receive, self._read_all()))
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def _read_all(self) -> dict[str, Any]:
        texts: list[str] = []
        ids: list[int] = []
        reason: str | None = None
        async for chunk in self.stream:
            text, chunk_ids, reason = self.add(chunk)
            texts.append(text)
            ids += chunk_ids
            if reason is not None:
                break
        return self.body("".join(texts), ids, reason)


class StreamedCompletion(CompletionResponse):
    """Server-sent events, one a token or, with token ids, one a frame; the last one has the usage."""

    async def start(self, receive: Receive) -> Response:
        """Waits for the first frame, so that a failure before it still has its own status."""
        try:
            first = await while_connected(receive, anext(self.stream))
        except ClientDisconnect:
            self.stream.cancel()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except BaseException:
            self.stream.cancel()
            raise
        return _EventStream(self, first)

    def events(self, chunk: CompletionChunk) -> Iterator[bytes]:
        """The events of one chunk: none while all of its text may yet become a stop string."""
        for part in (chunk,) if self._return_token_ids else chunk.by_token():
            text, ids, reason = self.add(part)
            if reason is not None:
                self.finished = True
                yield _event(json.dumps(self.body(text, ids, reason)))
                return
            if text or self._return_token_ids:
                yield _event(self._template % {"text": encode_basestring_ascii(text), "ids": ids})

    @cached_property
    def _template(self) -> str:
        """JSON of an event with places for text and ids: encoding all of it anew takes longer."""
        choice: dict[str, Any] = {"index": 0, "text": "\0text", "logprobs": None, "finish_reason": None}
        if self._return_token_ids:
            choice["token_ids"] = "\0ids"
        escaped = json.dumps({**self._identity, "choices": [choice]}).replace("%", "%%")
        for name in ("text", "ids"):
            escaped = escaped.replace(json.dumps(f"\0{name}"), f"%({name})s")
        return escaped


class _EventStream(Response):
    def __init__(self, completion: StreamedCompletion, first: CompletionChunk) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._completion = completion
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._completion.stream:
            with suppress(ClientDisconnect):
                await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await self._send_chunks(send)
        except OrpheusError as error:
            # The body stays unfinished on purpose: the server then breaks the connection off.
            await _send_body(send, _event(json.dumps(error.body())))
        else:
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _send_chunks(self, send: Send) -> None:
        chunk = self._first
        while True:
            await _send_body(send, b"".join(self._completion.events(chunk)))
            if self._completion.finished:
                return
            chunk = await anext(self._completion.stream)


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
