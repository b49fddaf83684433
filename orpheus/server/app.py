"""Tier 2's ASGI application over a speech service: routes, WebSockets and middleware.

All middleware is pure ASGI: a layer that wraps responses, as BaseHTTPMiddleware does, would turn a failure in the
middle of a stream into a clean end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from orpheus import __version__, tracing
from orpheus.http.body_limit import BodyLimit
from orpheus.http.leniency import Leniency, is_probe
from orpheus.http.origins import OriginCheck, allowed_origins
from orpheus.http.responses import install_error_handlers
from orpheus.server import catalog, health, openai, page
from orpheus.server.auth import ApiKeyAuth
from orpheus.server.openapi import describe
from orpheus.server.request_log import RequestLog
from orpheus.server.service import SpeechService
from orpheus.server.sockets import plain, session, unmute


def create_app(service: SpeechService) -> FastAPI:
    """The application. The service starts loading with it; /health reports when it is ready."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tracing.flushed(), service.running():
            yield

    telemetry = tracing.telemetry(is_probe)
    app = FastAPI(title="Orpheus speech", version=__version__, lifespan=lifespan, telemetry=telemetry)
    describe(app, keys=service.settings.api_keys is not None)
    install_error_handlers(app)
    _add_middleware(app, service)
    app.include_router(health.routes(service))
    app.include_router(catalog.routes(service))
    app.include_router(openai.routes(service))
    for protocol in (session, plain, unmute):
        app.include_router(protocol.routes(service))
    if service.settings.page:
        app.include_router(page.routes())
    return app


def _add_middleware(app: FastAPI, service: SpeechService) -> None:
    """The layer added last is the outermost."""
    settings = service.settings
    app.add_middleware(BodyLimit)
    app.add_middleware(ApiKeyAuth, settings=settings, keys=service.keys)
    origins = allowed_origins(settings)
    app.add_middleware(OriginCheck, allowed=origins, keyed=settings.api_keys is not None)
    if origins:
        # Outside ApiKeyAuth: a preflight request carries no key, and a page must be able to read a 401.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=[
                "x-request-id",
                "x-sample-rate",
                "x-input-chars",
                "x-left-out-chars",
                "x-cache",
                "x-transcript",
                "x-answer",
                "server-timing",
                "retry-after",
                "retry-after-ms",
                "openai-processing-ms",
            ],
        )
    app.add_middleware(RequestLog, metrics=service.metrics, draining=lambda: service.admission.draining)
    app.add_middleware(Leniency)
