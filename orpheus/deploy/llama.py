"""Tier 1 in a Modal container, which orpheus_llama_modal.py defines: a child process that starts fully or not at all.

A child process, because llama.cpp can abort its own, and Modal's runtime must survive to report that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from contextlib import aclosing

from orpheus import logs, vocabulary
from orpheus.deploy.weights import in_volume
from orpheus.errors import NotReady, OrpheusError
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.sampling import Sampling
from orpheus.settings import Settings, load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import voices_of
from orpheus.weights import find_model, model_name

KILL_S = 3.0  # after ORPHEUS_DRAIN_S

log = logging.getLogger(__name__)


class LlamaProcess:
    """`orpheus llama` listening on every address of the container."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings()
        self._server: ChildServer | None = None
        self._stopping = False

    def start(self, within_s: float) -> None:
        """Return once it has answered one completion. Raises OrpheusError, with the child stopped, if it does not."""
        logs.configure(self._settings)
        url = f"http://127.0.0.1:{self._settings.llama_port}"
        with in_volume("orpheus_llama_modal.py"):
            model = find_model(self._settings)
        environment = {
            "ORPHEUS_MODEL": str(model),
            "ORPHEUS_HOST": "0.0.0.0",  # Modal's proxy comes from outside the container
            "ORPHEUS_LLAMA_PORT": str(self._settings.llama_port),
            "ORPHEUS_DRAIN_S": str(self._settings.drain_s),
        }
        command = [sys.executable, "-m", "orpheus", "llama", "--supervised"]
        self._server = ChildServer("Tier 1", command, url, environment=environment)
        try:
            wait_until_healthy([self._server], within_s)
            took_s = asyncio.run(one_frame(self._settings.model_copy(update={"llama_endpoint": url})))
        except OrpheusError:
            self.stop()
            raise
        log.info("tier 1 is up; its first frame took %.0f ms", took_s * 1000)
        threading.Thread(target=self._watch, args=[self._server], name="llama-watch", daemon=True).start()

    def stop(self) -> None:
        """Let running streams end, for ORPHEUS_DRAIN_S at most."""
        self._stopping = True
        if self._server:
            self._server.stop(self._settings.drain_s + KILL_S)

    def _watch(self, server: ChildServer) -> None:
        """End the container with its child: one that answers nothing must not stay in rotation."""
        code = server.process.wait()
        if not self._stopping:
            print(f"orpheus: tier 1 ended with exit code {code}; the container goes with it", file=sys.stderr)
            os._exit(1)


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
