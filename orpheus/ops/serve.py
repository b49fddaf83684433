"""`orpheus serve`: both tiers as two processes, started together, stopped together.

Knows nothing of what they do, only their ports, their health and their exit codes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType

import httpx
from rich.console import Console

from orpheus import weights
from orpheus.http.process import announce, listen, url_of
from orpheus.settings import Settings

KILL_S = 1.5  # after ORPHEUS_DRAIN_S a child is killed: by default `serve` itself is gone within 5 s
POLL_S = 0.1
LOCAL = "127.0.0.1"  # tier 1 serves tier 2 alone


class _StopRequested(Exception):
    pass


def supervise(settings: Settings, console: Console) -> int:
    """Run both tiers until a signal or until one of them dies. Returns the exit code."""
    host = settings.host
    port = _free_port(host, settings.port, "--port or ORPHEUS_PORT")
    llama_port = _free_port(LOCAL, settings.llama_port, "--llama-port or ORPHEUS_LLAMA_PORT")
    environment = {
        **os.environ,
        "ORPHEUS_PORT": str(port),
        "ORPHEUS_LLAMA_PORT": str(llama_port),
        "ORPHEUS_LLAMA_ENDPOINT": url_of(LOCAL, llama_port),
        # Resolved once here, so that both tiers are sure to mean the same weights.
        "ORPHEUS_MODEL": weights.model_name(settings),
        "ORPHEUS_CODEC": weights.codec_name(settings),
        "PYTHONUNBUFFERED": "1",
    }
    with _signals():
        tiers: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for tier in ("llama", "speech"):
                tiers[tier] = subprocess.Popen(
                    [sys.executable, "-m", "orpheus", tier, "--supervised"],
                    env={**environment, "ORPHEUS_HOST": LOCAL if tier == "llama" else host},
                    stdin=subprocess.PIPE,  # closes when this process is gone, however it went
                    start_new_session=True,  # Ctrl-C reaches this process alone, which stops both
                )
            urls = {
                "llama": f"{url_of(LOCAL, llama_port)}/health",
                "speech": f"{url_of(host, port)}/health",
            }
            code = _wait_until_healthy(tiers, urls, console)
            if code is None:
                announce(settings, host, port, console)
                code = _wait_for_death(tiers)
            name = next(tier for tier, process in tiers.items() if process.poll() is not None)
            console.print(f"Tier {name} stopped by itself with exit code {code}; stopping the other.")
            return code or 1
        except _StopRequested:
            console.print("Stopping.")
            return 0
        finally:
            _ignore_signals()  # a Ctrl-C now must not break off the stopping itself
            _stop(tiers, settings.drain_s + KILL_S)


def _wait_until_healthy(
    tiers: dict[str, subprocess.Popen[bytes]], urls: dict[str, str], console: Console
) -> int | None:
    """None once both answer 200; the exit code of a tier that ended before."""
    waiting = dict(urls)
    said = ""
    last_said_s = time.monotonic()
    with console.status("Starting both tiers") as status, httpx.Client(trust_env=False) as client:
        while waiting:
            if (code := _dead(tiers)) is not None:
                return code
            for tier, url in list(waiting.items()):
                reason = "starting"
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    answer = client.get(url, timeout=1.0)
                    if answer.status_code == 200:
                        del waiting[tier]
                        continue
                    body = answer.json()
                    reason = body.get("reason") or body.get("error", {}).get("message") or reason
                said = f"{tier}: {reason}"
            status.update(f"Waiting for {said}")
            if not console.is_terminal and time.monotonic() - last_said_s > 5:
                console.print(f"Waiting for {said}")
                last_said_s = time.monotonic()
            time.sleep(POLL_S)
    return None


def _wait_for_death(tiers: dict[str, subprocess.Popen[bytes]]) -> int:
    while (code := _dead(tiers)) is None:
        time.sleep(POLL_S)
    return code


def _dead(tiers: dict[str, subprocess.Popen[bytes]]) -> int | None:
    return next((p.returncode for p in tiers.values() if p.poll() is not None), None)


def _stop(tiers: dict[str, subprocess.Popen[bytes]], within_s: float) -> None:
    """Tier 2 first: until its streams have ended they need tier 1."""
    deadline = time.monotonic() + within_s
    for process in reversed(tiers.values()):
        if process.poll() is None:
            process.terminate()
        try:
            # What is left of the time, and enough for a tier that has nothing under way any more.
            process.wait(max(0.4, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def _free_port(host: str, port: int, option: str) -> int:
    """The port itself, or a free one for 0; SetupError where it is taken."""
    bound = listen(host, port, option)
    try:
        return int(bound.getsockname()[1])
    finally:
        bound.close()


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        _ignore_signals()  # once is enough
        raise _StopRequested

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
