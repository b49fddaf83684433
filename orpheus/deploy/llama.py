"""Tier 1 in a Modal container, which orpheus_llama_modal.py defines."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import aclosing

from orpheus import logs, vocabulary
from orpheus.deploy.supervised import SupervisedServer
from orpheus.deploy.weights import in_volume
from orpheus.errors import NotReady
from orpheus.sampling import Sampling
from orpheus.settings import Settings, load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import voices_of
from orpheus.weights import find_model, model_name

log = logging.getLogger(__name__)


class LlamaProcess(SupervisedServer):
    """`orpheus llama` listening on every address of the container."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__("Tier 1", settings or load_settings())

    def start(self, within_s: float) -> None:
        """Return once it has answered one completion. Raises OrpheusError, with the child stopped, if it does not."""
        logs.configure(self._settings)
        url = f"http://127.0.0.1:{self._settings.llama_port}"
        with in_volume("modal run orpheus_llama_modal.py::fetch_weights"):
            model = find_model(self._settings)
        environment = {
            "ORPHEUS_MODEL": str(model),
            "ORPHEUS_HOST": "0.0.0.0",  # Modal's proxy comes from outside the container
            "ORPHEUS_LLAMA_PORT": str(self._settings.llama_port),
            "ORPHEUS_DRAIN_S": str(self._settings.drain_s),
        }
        command = [sys.executable, "-m", "orpheus", "llama", "--supervised"]
        settings = self._settings.model_copy(update={"llama_endpoint": url})
        took_s = self._run(command, url, within_s, lambda: asyncio.run(one_frame(settings)), environment)
        log.info("tier 1 is up; its first frame took %.0f ms", took_s * 1000)


async def one_frame(settings: Settings) -> float:
    """Request the first frame of a word from a completions endpoint. Returns the seconds it took.

    Raises what a request to tier 2 would raise.
    """
    voice = voices_of(model_name(settings), settings.own_voices).default
    source = HttpTokenSource(settings)
    generation = Generation(voice, "Hello.", Sampling(), max_tokens=vocabulary.SLOTS)
    started = time.perf_counter()
    count = 0
    try:
        async with aclosing(source.generate(generation)) as chunks:
            async for chunk in chunks:
                count += len(chunk.numbers)
    finally:
        await source.aclose()
    if count < vocabulary.SLOTS:
        raise NotReady(f"Tier 1 made {count} tokens where a frame has {vocabulary.SLOTS}.")
    return time.perf_counter() - started
