"""A speech service → the ASGI application: routes, sockets, errors in OpenAI's shape.

Knows nothing of what a route does. No middleware is used: one that wraps responses would turn a failure in
the middle of a stream into a clean end.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from orpheus import __version__
from orpheus.http import install_error_handlers
from orpheus.speech import openai
from orpheus.speech.service import SpeechService
from orpheus.speech.sockets import plain

log = logging.getLogger(__name__)


def create_app(service: SpeechService) -> FastAPI:
    """Tier 2. The service loads once the application starts, and /health says how far it is."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="Orpheus speech", version=__version__, lifespan=lifespan)
    install_error_handlers(app)
    app.include_router(openai.routes(service))
    app.include_router(plain.routes(service))
    return app
