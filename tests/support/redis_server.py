"""A real Redis on a free port, that keeps nothing on disk; and servers that are none."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.live import free_port


@contextlib.contextmanager
def running_redis(*options: str, port: int | None = None) -> Iterator[str]:
    """Its URL. Skips the test where there is no redis-server, which CI installs."""
    program = shutil.which("redis-server")
    if not program:
        pytest.skip("redis-server is not installed")
    port = port or free_port()
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([*words, *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(5) in (b"+PONG", b"-NOAU"):
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(20)


class NoRedis:
    """Accepts connections, and answers all that is sent there with the same bytes; with None it never does."""

    def __init__(self, answer: bytes | None) -> None:
        self.connections = 0
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://:secret@127.0.0.1:{self._socket.getsockname()[1]}/0"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                if self._answer is not None:
                    connection.sendall(self._answer)

    def close(self) -> None:
        for each in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
