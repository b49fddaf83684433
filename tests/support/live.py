"""Servers for tests: an ASGI application in a thread, and the real pair as processes, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from orpheus.http.connections import Peer
from orpheus.http.process import Server, listen

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """The URL of `app`, served as in production."""
    bound = listen("127.0.0.1", port, "")
    server = Server(app, log_level="critical", timeout_graceful_shutdown=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
        assert not thread.is_alive(), f"the server did not stop: {_whereabouts(thread, server)}"


def keep_little_unread(monkeypatch: pytest.MonkeyPatch, kernel_bytes: int = 16 * 1024) -> None:
    """Let a server and its system keep little of what is not read, so that tests need not send megabytes."""
    made = Peer.connection_made

    def connection_made(self: Peer, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel_bytes)
        cast(asyncio.Transport, transport).set_write_buffer_limits(kernel_bytes)
        made(self, transport)

    monkeypatch.setattr(Peer, "connection_made", connection_made)


def _whereabouts(thread: threading.Thread, server: uvicorn.Server) -> str:
    """What a server that should have stopped is doing."""
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)[-6:]) if frame else "it has just ended"
    threads = ", ".join(other.name for other in threading.enumerate())
    tasks = "\n".join(str(task)[:300] for task in asyncio.tasks._all_tasks)  # type: ignore[attr-defined]
    return f"{server.server_state.connections}\n{stack}\nthreads: {threads}\ntasks: {tasks}"


@dataclass
class Pair:
    """`orpheus serve`, or `orpheus talk`, as a user starts it."""

    process: subprocess.Popen[str]
    url: str
    llama_url: str
    output: str  # printed until it was ready
    log: Path  # everything it prints

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Its exit code, and the seconds it took to stop."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        return code, time.monotonic() - started


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without the ORPHEUS_ and OTEL_ settings of whoever runs the tests, plus `more`."""
    ours = ("ORPHEUS_", "OTEL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@contextlib.contextmanager
def running_pair(tmp_path: Path, *options: str, command: str = "serve", **environment: str) -> Iterator[Pair]:
    """Both tiers as processes on free ports, ready; stopped at the end."""
    port, llama_port = free_port(), free_port()
    words = [sys.executable, "-P", "-m", "orpheus", command, "--port", str(port)]
    words += ["--llama-port", str(llama_port), *options]
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            env=clean_environment(**environment),
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            text=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not (healthy(url) and "ready at" in log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Pair(process, url, f"http://127.0.0.1:{llama_port}", log.read_text(), log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def healthy(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    return False


def readme_blocks(language: str) -> list[str]:
    """The README's fenced code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
