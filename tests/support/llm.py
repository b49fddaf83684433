"""A scripted server of `/v1/chat/completions`: what RemoteThinker talks to, with the ways in which it can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

DONE = "data: [DONE]\n\n"


def event(content: object = None, reason: object = None, **delta: Any) -> str:
    choice = {"index": 0, "delta": {"content": content, **delta}, "finish_reason": reason}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


def call(arguments: object, **more: Any) -> str:
    """A piece of a tool call."""
    name = {"name": more.pop("name")} if "name" in more else {}
    return event(tool_calls=[{"type": "function", "function": {**name, "arguments": arguments}, **more}])


def usage(prompt: int, completion: int) -> str:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return f"data: {json.dumps({'choices': [], 'usage': counts})}\n\n"


def whole(*texts: str) -> list[str]:
    """The events of a successful answer."""
    return [event(role="assistant"), *map(event, texts), event(reason="stop"), usage(12, 3), DONE]


class ChatServer:
    """Tests set how it behaves and read what it saw."""

    def __init__(self) -> None:
        self.events: list[str] = whole("Hello", " there.")
        self.refusals: list[Response] = []  # instead of the events, one a request
        self.models: Response = JSONResponse({"data": [{"id": "the-model"}]})
        self.hang_after: int | None = None  # so many events
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = 0  # requests whose client disconnected
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
            ]
        )

    async def _models(self, request: Request) -> Response:
        return self.models

    async def _chat(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.refusals:
            return self.refusals.pop(0)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        ended = False
        try:
            for index, text in enumerate(self.events):
                if index == self.hang_after:
                    await asyncio.sleep(60)
                yield text
            ended = True
        finally:
            self.left += not ended
