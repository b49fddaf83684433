"""A scripted completions server: what HttpTokenSource talks to, with every way in which it can fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.faults.completions import SPEECH_FRAMES, event, frame_text, whole

__all__ = ["SPEECH_FRAMES", "Upstream", "event", "frame_text", "whole"]


PUBLISHED = {"n_vocab": 156_940, "codes_per_slot": 4096, "context_tokens": 2048}
EMBEDDED = {"n_vocab": 14_601, "codes_per_slot": 2048, "context_tokens": 2048}


def listed(**meta: Any) -> Response:
    """What our tier 1 says at /v1/models of a model with this `meta`."""
    return JSONResponse({"object": "list", "data": [{"id": "orpheus", "owned_by": "orpheus", "meta": meta}]})


class Upstream:
    """Tests set how it behaves (`events` or `answer`) and read what it saw (`requests`, `left`)."""

    def __init__(self) -> None:
        self.reset()
        self.app = Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/health", self._health),
                Route("/v1/models", self._models),
            ]
        )

    def reset(self) -> None:
        """Back to successful generations."""
        self.events: list[str] = whole()
        self.answer: Response | None = None  # instead of the events
        self.hang_after: int | None = None  # so many events, until `go_on` is set
        self.go_on = threading.Event()
        self.break_after: int | None = None  # so many events
        self.pause_s = 0.0  # before each event
        self.requests: list[dict[str, Any]] = []
        self.left = 0  # requests whose client disconnected
        self.health = 200
        self.models: Response | None = None  # as a server that has no such route
        self.fingerprint: str | None = None  # in the header of a completion

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"error": {"message": "weights are loading"}}, self.health)

    async def _models(self, request: Request) -> Response:
        return self.models or Response("Not Found", 404)

    async def _complete(self, request: Request) -> Response:
        seen = {**await request.json(), "headers": dict(request.headers)}
        events = self.events  # before the test sees the request, as it may then set those of the next
        self.requests.append(seen)
        headers = {"X-Model-Fingerprint": self.fingerprint} if self.fingerprint else {}
        return self.answer or StreamingResponse(
            self._stream(events), media_type="text/event-stream", headers=headers
        )

    async def _stream(self, events: list[str]) -> AsyncIterator[str]:
        ended = False
        try:
            for index, text in enumerate(events):
                if index == self.break_after:
                    ended = True
                    raise ConnectionResetError("as scripted")
                if index == self.hang_after:
                    while not self.go_on.is_set():  # noqa: ASYNC110 - set from the test's thread
                        await asyncio.sleep(0.005)
                await asyncio.sleep(self.pause_s)
                yield text
            ended = True
        finally:
            self.left += not ended
