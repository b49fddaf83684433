"""Tier 2 in a Modal container, which orpheus_fastapi_modal.py defines: wakes tier 1, loads the codec, serves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import modal

from orpheus import logs, tracing
from orpheus.deploy.settings import LLAMA_APP, LLAMA_SERVER
from orpheus.deploy.supervised import end_container_of
from orpheus.deploy.weights import in_volume
from orpheus.errors import NotReady
from orpheus.settings import Settings, load_settings
from orpheus.tts.served_model import ServedModel
from orpheus.tts.token_source import Generation, HttpTokenSource, TokenChunk
from orpheus.weights import find_codec

if TYPE_CHECKING:
    from fastapi import FastAPI

    from orpheus.server.service import SpeechService

log = logging.getLogger(__name__)


def load_modules() -> None:
    """The imports that take seconds and need no GPU: what a memory snapshot can hold."""
    import snac  # noqa: F401
    import torch  # noqa: F401

    import orpheus.server.app  # noqa: F401


def start() -> FastAPI:
    """The application, with its codec loaded. Raises SetupError or WeightsError."""
    return build(load_settings(), "modal run orpheus_fastapi_modal.py::fetch_weights")


def build(
    settings: Settings,
    fetch: str,
    extend: Callable[[FastAPI, SpeechService], object] = lambda app, service: None,
) -> FastAPI:
    """`start` for any settings. `fetch` is the command that fetches the codec, `extend` adds to the application."""
    from orpheus.codec import Codec
    from orpheus.deploy.sockets import SocketRules
    from orpheus.server.app import create_app
    from orpheus.server.service import SpeechService

    logs.configure(settings)
    tracing.configure(tracing.SPEECH)
    # First, so that its GPU starts while ours loads.
    threading.Thread(target=asyncio.run, args=[_wake_tier1(settings)], name="wake-tier1", daemon=True).start()
    with in_volume(fetch):
        folder = find_codec(settings)
    codec = Codec.load(folder, settings, end_container_of)
    service = SpeechService(settings, lambda: ModalTokenSource(settings), lambda _: codec)
    app = create_app(service)
    app.add_middleware(SocketRules)
    extend(app, service)
    running = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(app):
            await service.loaded()  # Modal sends requests from here on
            yield
            await service.drain(lambda: False)  # Modal ends the lifespan before it calls any exit method

    app.router.lifespan_context = lifespan
    return app


async def find_server(app: str, server: str, what: str, command: str, setting: str) -> str:
    """The URL of a Modal Server. NotReady says how to deploy it; `what` begins its sentence."""
    try:
        url = await modal.Server.from_name(app, server).get_url.aio()
    except modal.exception.NotFoundError as error:
        raise NotReady(
            f"{what}, the app {app}, is not deployed: run `{command}`, or set {setting} to another one."
        ) from error
    except modal.Error as error:
        raise NotReady(f"Modal could not look up {what[0].lower()}{what[1:]}: {error}") from error
    if not url:
        raise NotReady(f"Modal has no URL for {app}: deploy it again.")
    return str(url)


class ModalTokenSource(HttpTokenSource):
    """Tier 1 by its name on Modal, unless ORPHEUS_LLAMA_ENDPOINT is set.

    It is looked up when first needed, and again until it is found: it may be deployed after tier 2.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._settings = settings
        self._found = settings.llama_endpoint is not None

    async def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        await self._look_up()
        async with aclosing(super().generate(generation)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def check(self) -> None:
        await self._look_up()
        await super().check()

    async def model(self, *, patient: bool = True) -> ServedModel:
        await self._look_up()
        return await super().model(patient=patient)

    async def _look_up(self) -> None:
        if self._found:
            return
        url = await find_server(
            LLAMA_APP, LLAMA_SERVER, "Tier 1", "modal deploy orpheus_llama_modal.py", "ORPHEUS_LLAMA_ENDPOINT"
        )
        self._url = self._settings.model_copy(update={"llama_endpoint": url}).completions_url
        self._found = True


async def _wake_tier1(settings: Settings) -> None:
    """A request to its /health starts a sleeping tier 1."""
    source = ModalTokenSource(settings)
    try:
        await source.check()
        log.info("tier 1 is ready")
    except NotReady as error:
        log.info("tier 1 was asked to start: %s", error)
    finally:
        await source.aclose()
