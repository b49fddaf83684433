"""Settings → tier 2 as a Modal container serves it: the codec loaded, tier 1 woken, the application made.

Knows nothing of decorators; orpheus_fastapi_modal.py has those. The imports stand in the functions, as the file is
read on the machine that deploys, which has neither torch nor a GPU.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orpheus import logs
from orpheus.deploy import tier1, weights
from orpheus.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI


def load_modules() -> None:
    """What takes seconds and needs no GPU: the part a memory snapshot can hold."""
    import snac  # noqa: F401
    import torch  # noqa: F401

    import orpheus.server.app  # noqa: F401


def start() -> FastAPI:
    """The application, with its codec ready. SetupError or WeightsError where it cannot be."""
    from orpheus.codec import Codec
    from orpheus.server.app import create_app
    from orpheus.server.service import SpeechService

    settings = load_settings()
    logs.configure(settings)
    tier1.wake(settings)  # first, so that its GPU starts while ours loads
    codec = Codec.load(weights.codec_at_hand(settings), settings)
    service = SpeechService(settings, lambda: tier1.tokens(settings), lambda: codec)
    app = create_app(service)
    running = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(app):
            await service.loaded()  # Modal sends requests from here on
            yield
            await service.drain(lambda: False)  # Modal ends the lifespan before it calls any exit method

    app.router.lifespan_context = lifespan
    return app
