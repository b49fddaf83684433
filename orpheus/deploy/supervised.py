"""A server as a child process of a Modal container: it starts fully or not at all, and the container ends with it.

A child process, because llama.cpp and vLLM can abort their own, and Modal's runtime must survive to report that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from orpheus.errors import OrpheusError
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.settings import Settings

KILL_S = 3.0  # after ORPHEUS_DRAIN_S
TELL_S = 1.0


class SupervisedServer:
    def __init__(self, name: str, settings: Settings) -> None:
        """`name` stands for it in messages."""
        self._name = name
        self._settings = settings
        self._server: ChildServer | None = None
        self._stopping = False

    def stop(self) -> None:
        """Let running streams end, for ORPHEUS_DRAIN_S at most."""
        self._stopping = True
        if self._server:
            self._server.stop(self._settings.drain_s + KILL_S)

    def _run(
        self,
        command: Sequence[str],
        url: str,
        within_s: float,
        check: Callable[[], float],
        environment: Mapping[str, str] | None = None,
    ) -> float:
        """Start it, wait until it is healthy, and return what `check` does, the seconds that it took.

        Raises OrpheusError, with the child stopped, if it does not come up.
        """
        self._server = ChildServer(self._name, command, url, environment=environment)
        try:
            wait_until_healthy([self._server], within_s)
            took_s = check()
        except OrpheusError:
            self.stop()
            raise
        threading.Thread(target=self._watch, args=[self._server], name="watch", daemon=True).start()
        return took_s

    def _watch(self, server: ChildServer) -> None:
        """End the container with its child: one that answers nothing must not stay in rotation."""
        code = server.process.wait()
        if not self._stopping:
            _end_container(f"{self._name} ended with exit code {code}")


def end_container_of(failure: OrpheusError) -> None:
    """End it because of what it can never recover from: TELL_S later, in which those who wait are told. Does not return."""
    time.sleep(TELL_S)
    _end_container(str(failure).rstrip("."))


def _end_container(reason: str) -> None:
    print(f"orpheus: {reason}; the container goes with it", file=sys.stderr, flush=True)
    os._exit(1)
