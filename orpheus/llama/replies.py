"""A running stream → an HTTP answer: one JSON body, or one server-sent event a frame.

Knows nothing of routes or of how tokens are made. A reader that leaves frees its stream at once; an error after
the start is an event and then a body that visibly breaks off: no `[DONE]`, no last chunk.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from orpheus.errors import OrpheusError
from orpheus.llama.loop import Completion, Engine, Stream, TokenChunk
from orpheus.llama.schema import CompletionRequest
from orpheus.llama.text import ChunkText


class Reply:
    """What both kinds of answer share: identity, text and counts."""

    def __init__(self, engine: Engine, completion: Completion, body: CompletionRequest, model: str) -> None:
        self.body = body
        self.text = ChunkText(engine.piece, body.text_stops, completion.constrained)
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

    def add(self, chunk: TokenChunk) -> tuple[str, list[int], str | None]:
        """Text, ids and finish reason of the next chunk; a stop string met ends it."""
        self.tokens += len(chunk.ids)
        text = self.text.push(chunk)
        return text, list(chunk.ids), "stop" if self.text.stopped else chunk.finish_reason


@asynccontextmanager
async def leaving_cancels(stream: Stream, receive: Receive) -> AsyncIterator[None]:
    """While inside, a client that disconnects cancels `stream`; so does leaving."""
    with cancelled_on_disconnect(stream, receive):
        try:
            yield
        finally:
            stream.cancel()


@contextmanager
def cancelled_on_disconnect(stream: Stream, receive: Receive) -> Iterator[None]:
    """While inside, a client that disconnects cancels `stream`."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        stream.cancel()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


class BufferedReply:
    """The whole completion in one JSON body."""

    @classmethod
    async def begin(
        cls, engine: Engine, completion: Completion, body: CompletionRequest, model: str, receive: Receive
    ) -> Response:
        reply = Reply(engine, completion, body, model)
        texts: list[str] = []
        ids: list[int] = []
        reason: str | None = None
        async with leaving_cancels(stream := engine.submit(completion), receive):
            async for chunk in stream:
                text, new, reason = reply.add(chunk)
                texts.append(text)
                ids += new
                if reason is not None:
                    break
        if reason is None:
            return Response(status_code=499)  # the client left; nobody reads it
        answer = reply.envelope([reply.choice("".join(texts), ids, reason)])
        return JSONResponse({**answer, "usage": reply.usage()})


class StreamedReply(Response):
    """Server-sent events, one a frame; usage is in the last."""

    def __init__(self, reply: Reply, stream: Stream, first: TokenChunk | None) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._reply = reply
        self._stream = stream
        self._chunk = first

    @classmethod
    async def begin(
        cls, engine: Engine, completion: Completion, body: CompletionRequest, model: str, receive: Receive
    ) -> Response:
        """Wait for the first frame, so that a failure before it still has a status of its own."""
        stream = engine.submit(completion)
        try:
            with cancelled_on_disconnect(stream, receive):
                first = await anext(stream, None)
        except BaseException:
            stream.cancel()
            raise
        return cls(Reply(engine, completion, body, model), stream, first)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._chunk is None:
            return  # the client left before the first frame
        async with leaving_cancels(self._stream, receive):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                complete = await self._send_events(send)
            except OrpheusError as error:
                await self._send(send, json.dumps(error.body()))
                complete = False
            if complete:
                await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
            # Otherwise the body is left open on purpose: the server then breaks the connection off.

    async def _send_events(self, send: Send) -> bool:
        """Whether the completion came to its end."""
        reply = self._reply
        while self._chunk is not None:
            text, ids, reason = reply.add(self._chunk)
            event = reply.envelope([reply.choice(text, ids, reason)])
            if reason is not None:
                event["usage"] = reply.usage()
            await self._send(send, json.dumps(event))
            if reason is not None:
                return True
            self._chunk = await anext(self._stream, None)
        return False

    async def _send(self, send: Send, data: str) -> None:
        body = b"data: %b\n\n" % data.encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
