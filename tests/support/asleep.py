"""A service that takes a while to wake up, as on Modal."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def asleep(answers: list[Response | float]) -> Starlette:
    """It gives these answers to /health, or none for so many seconds, before it is ready."""

    async def health(request: Request) -> Response:
        answer = answers.pop(0) if answers else 0
        if isinstance(answer, Response):
            return answer
        await asyncio.sleep(answer)
        return JSONResponse({"status": "ready", "reason": None, "codec": {}})

    async def voices(request: Request) -> Response:
        return JSONResponse({"voices": [{}, {}]})

    return Starlette(routes=[Route("/v1/audio/voices", voices), Route("/health", health)])
