"""Servers run as child processes: started, awaited until they are healthy, stopped.

In: a command line, and the URL that answers 200 once the server can serve. All times are seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from orpheus.errors import EngineError, NotReady

POLL_S = 0.1
TAIL_CHARS = 1000


class ChildEnded(EngineError):
    """A server ended before it was healthy; the sentence has its exit code and the end of its log."""


class ChildServer:
    """A running child process. Call `stop` when done with it.

    Its standard input is a pipe that closes when this process ends, however it ends: servers of ours that are started
    with `--supervised` then stop. It has a session of its own: Ctrl-C reaches this process alone, which decides.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        health_url: str,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
    ) -> None:
        """Start `command`. `name` stands for it in messages. `environment` is added to that of this process.

        Its output goes to the file `log`, or to where the output of this process goes.
        """
        self.name = name
        self.health_url = health_url
        self._log = log
        with log.open("wb") if log else contextlib.nullcontext() as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self.process.poll()

    def output(self) -> str:
        """What it has written so far; empty without a log."""
        return self._log.read_text(errors="replace") if self._log else ""

    def unhealthy(self, client: httpx.Client) -> str | None:
        """Why it cannot serve yet, in its own words where it says so; None once it can."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = client.get(self.health_url, timeout=2.0)
            if answer.status_code == 200:
                return None
            body = answer.json()
            return str(body.get("reason") or body.get("error", {}).get("message") or "starting")
        return "starting"

    def stop(self, grace_s: float, number: int = signal.SIGTERM) -> int:
        """Send the signal, and SIGKILL where that was not enough within `grace_s`. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
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
                        + (f". The end of its log: {tail}" if tail else "; its log says why.")
                    )
            if (reason := waiting[0].unhealthy(client)) is None:
                del waiting[0]
                continue
            if time.monotonic() >= deadline_s:
                raise NotReady(f"{waiting[0].name} was not ready within {within_s:g} s: {reason}")
            progress(f"{waiting[0].name}: {reason}")
            time.sleep(POLL_S)
