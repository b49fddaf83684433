"""Serve an ASGI application in this process until a signal, and end with the right exit code.

Loading in the background that fails ends the process too: a server that can never answer should not keep running.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from orpheus.errors import OrpheusError, SetupError, in_a_sentence
from orpheus.http.body_limit import MAX_BODY_BYTES
from orpheus.settings import Settings

ABORT_S = 12.0  # after our close, a little more than uvicorn gives the other side to answer it
CLOSE_S = 0.7  # for clients to answer a close, once everything is drained
STOP_S = 1.0  # from the end of draining to the end of the process
Drain = Callable[[Callable[[], bool]], Awaitable[None]]  # gets a function that says whether to hurry

T = TypeVar("T")


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; `setting` names what chooses another port. SetupError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is named because asyncio disables Nagle's algorithm only then; with it, the first samples
        # would wait 40 ms for the client to acknowledge the headers.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(socket.SOMAXCONN)  # now: of two servers started at once only one may get the port
        except BaseException:
            bound.close()
            raise
    except socket.gaierror as error:
        raise SetupError(
            f"{host!r} is not an address of this machine ({error.strerror}): set ORPHEUS_HOST."
        ) from error
    except OSError as error:
        raise SetupError(
            f"Cannot listen on {host}:{port} ({error.strerror}): stop what uses it, or choose another port with "
            f"{setting}."
        ) from error
    return bound


def free_port(host: str = "127.0.0.1", port: int = 0, setting: str = "another address") -> int:
    """`port` itself, or a free one if it is 0. SetupError as from `listen`."""
    with listen(host, port, setting) as bound:
        return int(bound.getsockname()[1])


class Process:
    """The server of this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._failure: OrpheusError | None = None

    def ending_on_failure(self, load: Callable[[], T]) -> Callable[[], T]:
        """`load` wrapped so that its failure also ends the process, with the error's exit code."""

        def wrapped() -> T:
            try:
                return load()
            except Exception as error:
                self.end(in_a_sentence(error))
                raise

        return wrapped

    def end(self, failure: OrpheusError) -> None:
        """Stop serving because of `failure`. Callable from any thread."""
        self._failure = failure
        if self._server:
            self._server.should_exit = True

    def serve(self, app: ASGIApp, bound: socket.socket, drain: Drain | None = None) -> None:
        """Serve until a signal, or until `end`, whose failure is then raised.

        `drain` lets running requests finish in the way their protocols ask, and `app` logs requests itself. Without
        it, uvicorn logs them and gives them ORPHEUS_DRAIN_S to finish.
        """
        config = uvicorn.Config(
            app,
            log_config=None,  # orpheus.logs has configured logging
            access_log=drain is None,
            timeout_graceful_shutdown=CLOSE_S if drain else self._settings.drain_s,  # type: ignore[arg-type]  # a float will do
            ws=WebSocketProtocol,
            ws_max_size=MAX_BODY_BYTES,
            ws_per_message_deflate=False,  # compressing audio gains nothing and would cost a core
            server_header=False,
        )
        logging.getLogger("uvicorn.access").addFilter(_not_a_probe)
        self._server = _Server(config, drain)
        if self._failure is None:
            self._server.run(sockets=[bound])
        bound.close()
        if self._failure is not None:
            raise self._failure


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Drops clients that stopped reading, but not those that read slowly."""

    _behind = False  # whether the last ping was queued behind unread data

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if (scope := getattr(self, "scope", None)) is not None:  # the handshake was accepted
            scope["extensions"]["orpheus.unread"] = {"bytes": self.transport.get_write_buffer_size}

    def keepalive_timeout(self) -> None:
        """Give a client that is behind more time: a ping is queued after unread data, so its answer comes late."""
        behind, self._behind = self._behind, self.transport.get_write_buffer_size() > 0
        if (behind or self._behind) and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
        else:
            super().keepalive_timeout()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        # A client that reads nothing never answers the close.
        self.loop.call_later(ABORT_S, self.transport.abort)


class _Server(uvicorn.Server):
    """Drains before shutting down: uvicorn alone would close WebSockets in mid-word."""

    def __init__(self, config: uvicorn.Config, drain: Drain | None) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain is not None:
            for listener in self.servers:
                listener.close()
            await self._drain(lambda: self.force_exit)
            for task in self.server_state.tasks:
                task.cancel()  # those that did not finish in time
        await super().shutdown(sockets)


def _not_a_probe(record: logging.LogRecord) -> bool:
    """Keeps health checks and scrapes, which come every few seconds, out of the access log."""
    path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
    return path not in ("/health", "/ready", "/metrics")


def url_of(host: str, port: int) -> str:
    """The URL of a server that listens on `host`, from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def end_with_parent(drain_s: float) -> None:
    """Stop when standard input closes, so that a supervisor that is killed leaves no orphans."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: holding its lock would break the interpreter's exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(drain_s + STOP_S, os._exit, (1,)).start()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
