"""Settings → tier 1 as a process of its own, started for good or not at all, and stopped without cutting off.

Knows nothing of decorators; orpheus_llama_modal.py has those. A process of its own, as llama.cpp can end the one
it runs in, and Modal's runtime must live to say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import aclosing

import httpx

from orpheus import logs, vocabulary
from orpheus.deploy import weights
from orpheus.errors import EngineError, NotReady, OrpheusError, SetupError
from orpheus.sampling import Sampling
from orpheus.settings import Settings, load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import languages_of, voices_of
from orpheus.weights import model_name

POLL_S = 0.2
KILL_S = 3.0  # after ORPHEUS_DRAIN_S

log = logging.getLogger(__name__)


class LlamaProcess:
    """`orpheus llama` on every address of the container."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def start(self, within_s: float) -> None:
        """Return once it has answered one completion. Raises why it could not within the time."""
        logs.configure(self._settings)
        environment = {
            **os.environ,
            "ORPHEUS_MODEL": str(weights.model_at_hand(self._settings)),
            "ORPHEUS_HOST": "0.0.0.0",  # Modal's proxy comes from outside the container
            "ORPHEUS_LLAMA_PORT": str(self._settings.llama_port),
            "ORPHEUS_DRAIN_S": str(self._settings.drain_s),
        }
        deadline = time.monotonic() + within_s
        self._process = subprocess.Popen([sys.executable, "-m", "orpheus", "llama"], env=environment)
        try:
            url = f"http://127.0.0.1:{self._settings.llama_port}"
            self._wait_for_health(url, deadline)
            took_s = asyncio.run(one_frame(self._settings.model_copy(update={"llama_endpoint": url})))
        except OrpheusError:
            self.stop()
            raise
        log.info("tier 1 is up; its first frame took %.0f ms", took_s * 1000)
        threading.Thread(target=self._watch, name="llama-watch", daemon=True).start()

    def stop(self) -> None:
        """Let streams under way end, for ORPHEUS_DRAIN_S at most."""
        self._stopping = True
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._settings.drain_s + KILL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_for_health(self, url: str, deadline: float) -> None:
        assert self._process is not None
        said = "it does not listen yet"
        with httpx.Client(trust_env=False) as client:
            while time.monotonic() < deadline:
                if (code := self._process.poll()) is not None:
                    raise EngineError(
                        f"Tier 1 ended with exit code {code} while it started; its log says why."
                    )
                try:
                    answer = client.get(f"{url}/health", timeout=2)
                    if answer.status_code == 200:
                        return
                    said = answer.text[:300]
                except httpx.HTTPError:
                    pass
                time.sleep(POLL_S)
        raise SetupError(f"Tier 1 was not ready in time (ORPHEUS_STARTUP_TIMEOUT_S): {said}")

    def _watch(self) -> None:
        """End the container with the process: one that answers nothing must not stay in rotation."""
        assert self._process is not None
        code = self._process.wait()
        if not self._stopping:
            print(f"orpheus: tier 1 ended with exit code {code}; the container goes with it", file=sys.stderr)
            os._exit(1)


async def one_frame(settings: Settings) -> float:
    """Ask a completions endpoint for the first frame of a word; how long that took, in seconds.

    Raises what a request of tier 2 would raise.
    """
    voice = voices_of(languages_of(model_name(settings)))[0]
    source = HttpTokenSource(settings)
    segment = Generation(voice.id, "Hello.", Sampling(), max_tokens=vocabulary.SLOTS)
    started = time.perf_counter()
    count = 0
    try:
        async with aclosing(source.generate(segment)) as numbers:
            async for chunk in numbers:
                count += len(chunk.numbers)
    finally:
        await source.aclose()
    if count < vocabulary.SLOTS:
        raise NotReady(f"Tier 1 made {count} tokens where a frame has {vocabulary.SLOTS}.")
    return time.perf_counter() - started
