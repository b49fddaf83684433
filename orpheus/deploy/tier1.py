"""Tier 1 as tier 2 sees it on Modal: looked up by name when first needed, woken early, waited for.

Knows nothing of tokens beyond passing them on. ORPHEUS_LLAMA_ENDPOINT names another tier 1 and ends the looking up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx

from orpheus.deploy.settings import LLAMA_APP, LLAMA_SERVER
from orpheus.errors import NotReady
from orpheus.settings import Settings
from orpheus.tts.token_source import Generation, HttpTokenSource, TokenChunk

log = logging.getLogger(__name__)


class ModalTokenSource:
    """A `TokenSource`: the server Modal knows by name. One that is not deployed yet is looked for again each time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: HttpTokenSource | None = None

    async def generate(self, segment: Generation) -> AsyncGenerator[TokenChunk]:
        async with aclosing((await self._tier1()).generate(segment)) as numbers:
            async for chunk in numbers:
                yield chunk

    async def check(self) -> None:
        await (await self._tier1()).check()

    async def aclose(self) -> None:
        if self._found is not None:
            await self._found.aclose()

    async def _tier1(self) -> HttpTokenSource:
        if self._found is None:
            url = await _look_up()
            if self._found is None:  # nobody was faster
                self._found = HttpTokenSource(self._settings.model_copy(update={"llama_endpoint": url}))
        return self._found


def tokens(settings: Settings) -> ModalTokenSource | HttpTokenSource:
    """Where tier 2 gets its tokens from."""
    return HttpTokenSource(settings) if settings.llama_endpoint else ModalTokenSource(settings)


def wake(settings: Settings) -> threading.Thread:
    """Ask tier 1 how it is, beside everything else: a sleeping one starts by being asked."""
    thread = threading.Thread(target=_wake, args=(settings,), name="wake-tier1", daemon=True)
    thread.start()
    return thread


def _wake(settings: Settings) -> None:
    import modal

    try:
        url = settings.llama_endpoint or modal.Server.from_name(LLAMA_APP, LLAMA_SERVER).get_url()
        url = settings.model_copy(update={"llama_endpoint": url}).completions_url
        health = url.removesuffix("/v1/completions") + "/health"
        answer = httpx.get(health, headers=settings.proxy_headers, timeout=10, trust_env=False)
        log.info("tier 1 at %s answers %d", url, answer.status_code)
    except (httpx.HTTPError, modal.Error) as error:
        log.warning("tier 1 could not be woken: %s", error)


async def _look_up() -> str:
    import modal

    server = modal.Server.from_name(LLAMA_APP, LLAMA_SERVER)
    try:
        url = await server.get_url.aio()
    except modal.exception.NotFoundError as error:
        raise NotReady(
            f"Tier 1, the app {LLAMA_APP}, is not deployed here: run `modal deploy orpheus_llama_modal.py`, or set "
            "ORPHEUS_LLAMA_ENDPOINT to another."
        ) from error
    except modal.Error as error:
        raise NotReady(f"Modal did not say where tier 1 is: {error}") from error
    if not url:
        raise NotReady(f"Modal knows no URL of {LLAMA_APP}: deploy it again.")
    return str(url)
