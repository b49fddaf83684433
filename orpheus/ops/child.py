"""Servers run as child processes: started, awaited until they are healthy, stopped.

A server is healthy once its /health, or another path, answers 200. All times are seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from orpheus.errors import EngineError, NotReady

POLL_S = 0.1
GRACE_S = 10.0
TAIL_CHARS = 1000


class ChildEnded(EngineError):
    """A server exited before it was healthy; the message has its exit code and the end of its output."""


class ChildServer:
    """A running child process. Call `stop` when done with it, or use it as a context manager.

    Its standard input is a pipe that closes when this process ends, however it ends: servers of ours that are started
    with `--supervised` then stop. It has a session of its own: Ctrl-C reaches this process alone, which decides.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        url: str,
        *,
        health: str = "/health",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        capture: bool = False,
    ) -> None:
        """Start `command`, which is to serve at `url`. `name` stands for it in messages.

        `environment` is added to that of this process. The server's output goes where this process's goes, unless it is
        captured.
        """
        self.name = name
        self.url = url
        self._health_url = url + health
        self._said = ""
        self._output = tempfile.TemporaryFile() if capture else None  # noqa: SIM115 - closed by `stop`
        self.process = subprocess.Popen(
            command,
            # A file in the working directory must not be run in place of a module of the same name.
            env={**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    def __enter__(self) -> ChildServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(GRACE_S)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self.process.poll()

    def output(self) -> str:
        """What was captured so far."""
        if self._output is not None:
            file = self._output.fileno()  # not read(), which would move the position the server writes at
            self._said = os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
        return self._said

    def unhealthy(self, client: httpx.Client) -> str | None:
        """Why it cannot serve yet, in its own words if it gives a reason; None once it can."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = client.get(self._health_url, timeout=2.0)
            if answer.status_code == 200:
                return None
            body = answer.json()
            return str(body.get("reason") or body.get("error", {}).get("message") or "starting")
        return "starting"

    def stop(self, grace_s: float, number: int = signal.SIGTERM) -> int:
        """Send the signal, then SIGKILL if it is still running after `grace_s` seconds. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        if self._output is not None:
            self.output()
            self._output.close()
            self._output = None
        return code


def wait_until_healthy(
    servers: Sequence[ChildServer],
    within_s: float = math.inf,
    progress: Callable[[str], None] = lambda waiting_for: None,
) -> None:
    """Return once all of them are healthy. `progress` gets "NAME: REASON" ten times a second.

    Raises ChildEnded as soon as one of them has ended, and NotReady after `within_s`.
    """
    deadline_s = time.monotonic() + within_s
    waiting = list(servers)
    reason: str | None = ""
    with httpx.Client(trust_env=False) as client:
        while waiting:
            for server in servers:
                if (code := server.exit_code) is not None:
                    tail = server.output()[-TAIL_CHARS:].strip()
                    raise ChildEnded(
                        f"{server.name} ended with exit code {code} before it was ready"
                        + (f". The end of its output: {tail}" if tail else "; its log says why.")
                    )
            if (reason := waiting[0].unhealthy(client)) is None:
                del waiting[0]
                continue
            if time.monotonic() >= deadline_s:
                raise NotReady(f"{waiting[0].name} was not ready within {within_s:g} s: {reason}")
            progress(f"{waiting[0].name}: {reason}")
            time.sleep(POLL_S)
