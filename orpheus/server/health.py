"""Probes and metrics: `/live`, `/ready`, `/health`, `/metrics`.

`/live` succeeds as long as the process responds; `/ready` and `/health` are 503 with the reason until requests can be
served, and again once the server is shutting down.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from orpheus.server.metrics import CONTENT_TYPE
from orpheus.server.service import SpeechService

_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready; `reason` explains why"}}
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()

    @router.get("/live")
    async def live() -> dict[str, str]:
        """200 while the process responds: restart it when this fails."""
        return {"status": "live"}

    @router.get("/health", responses=_NOT_READY)
    @router.get("/ready", responses=_NOT_READY)
    async def ready() -> JSONResponse:
        """200 when requests can be served: route none here when this fails."""
        problem = await service.problem()
        state = "ready" if problem is None else "failed" if service.failure else "not ready"
        body = {"status": state, "reason": problem, "codec": service.codec_report()}
        return JSONResponse(body, 200 if problem is None else 503)

    @router.get("/metrics", response_class=Response, responses=_TEXT)
    async def metrics() -> Response:
        """All metrics in the Prometheus text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return router
