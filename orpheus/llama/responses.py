"""A running stream → an HTTP answer: one JSON body, or one server-sent event a frame.

Knows nothing of routes or of how tokens are made. A reader that leaves frees its stream at once; an error after
the start is an event and then a body that visibly breaks off: no `[DONE]`, no last chunk.
"""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from orpheus.errors import OrpheusError
from orpheus.http.responses import while_connected
from orpheus.llama.detokenizer import IncrementalDetokenizer
from orpheus.llama.engine import Completion, CompletionChunk, Engine, Stream
from orpheus.llama.schema import CompletionRequest


class CompletionResponse:
    """What both kinds of answer share: identity, text and counts."""

    def __init__(self, engine: Engine, completion: Completion, body: CompletionRequest, model: str) -> None:
        self.body = body
        self.text = IncrementalDetokenizer(engine.piece, body.text_stops, completion.constrained)
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self.prompt_tokens = len(completion.prompt)
        self.tokens = 0

    def choice(self, text: str, ids: list[int], finish_reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        if self.body.return_token_ids:
            choice["token_ids"] = ids
        return choice

    def envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    def add(self, chunk: CompletionChunk) -> tuple[str, list[int], str | None]:
        """Text, ids and finish reason of the next chunk; a stop string met ends it."""
        self.tokens += len(chunk.ids)
        text = self.text.push(chunk)
        return text, list(chunk.ids), "stop" if self.text.stopped else chunk.finish_reason


class BufferedCompletion:
    """The whole completion in one JSON body."""

    @classmethod
    async def begin(
        cls, engine: Engine, completion: Completion, body: CompletionRequest, model: str, receive: Receive
    ) -> Response:
        reply = CompletionResponse(engine, completion, body, model)
        async with engine.submit(completion) as stream:
            try:
                choice = await while_connected(receive, _whole(reply, stream))
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
        return JSONResponse({**reply.envelope([choice]), "usage": reply.usage()})


async def _whole(reply: CompletionResponse, stream: Stream) -> dict[str, Any]:
    """The one choice of a completion that is read to its end."""
    texts: list[str] = []
    ids: list[int] = []
    reason: str | None = None
    async for chunk in stream:
        text, new, reason = reply.add(chunk)
        texts.append(text)
        ids += new
        if reason is not None:
            break
    return reply.choice("".join(texts), ids, reason)


class StreamedCompletion(Response):
    """Server-sent events, one a frame; usage is in the last."""

    def __init__(self, reply: CompletionResponse, stream: Stream, first: CompletionChunk) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._reply = reply
        self._stream = stream
        self._first = first

    @classmethod
    async def begin(
        cls, engine: Engine, completion: Completion, body: CompletionRequest, model: str, receive: Receive
    ) -> Response:
        """Wait for the first frame, so that a failure before it still has a status of its own."""
        stream = engine.submit(completion)
        try:
            first = await while_connected(receive, anext(stream))
        except ClientDisconnect:
            stream.cancel()
            return Response(status_code=499)
        except BaseException:
            stream.cancel()
            raise
        return cls(CompletionResponse(engine, completion, body, model), stream, first)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stream:
            with suppress(ClientDisconnect):
                await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await self._send_events(send)
        except OrpheusError as error:
            # The body is left open on purpose: the server then breaks the connection off.
            await self._send(send, json.dumps(error.body()))
        else:
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _send_events(self, send: Send) -> None:
        reply, chunk = self._reply, self._first
        while True:
            text, ids, reason = reply.add(chunk)
            event = reply.envelope([reply.choice(text, ids, reason)])
            if reason is not None:
                event["usage"] = reply.usage()
            await self._send(send, json.dumps(event))
            if reason is not None:
                return
            chunk = await anext(self._stream)

    async def _send(self, send: Send, data: str) -> None:
        body = b"data: %b\n\n" % data.encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
