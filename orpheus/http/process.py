"""Serve an ASGI application in this process until a signal, and end with the right exit code.

Loading in the background that fails ends the process too: a server that can never answer should not keep running.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import uvicorn
from starlette.types import ASGIApp

from orpheus.errors import OrpheusError, SetupError, in_a_sentence
from orpheus.http.body_limit import MAX_BODY_BYTES
from orpheus.http.connections import Connections
from orpheus.http.leniency import PROBES
from orpheus.http.protocols import MAX_HEAD_BYTES, HttpProtocol, WebSocketProtocol
from orpheus.settings import Settings

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 16  # connections, before others have their turn
LEFT_AT_ONCE = 64  # clients that have left again already, closed in one go
CLOSE_S = 0.7  # for clients to answer a close, once everything is drained
STOP_S = 1.0  # from the end of draining to the end of the process
Drain = Callable[[Callable[[], bool]], Awaitable[None]]  # gets a function that says whether to hurry

P = ParamSpec("P")
T = TypeVar("T")


class Listener(socket.socket):
    """A listening socket that passes over clients that have left before anybody looked at them.

    A client that opens and resets 4,000 connections a second kept others waiting for 1.5 s, most of it spent on
    requests that nobody was there to hear the answer to (2 cores, 2026-11-30). Closing one here takes 20 µs.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        for _ in range(LEFT_AT_ONCE):
            connection, address = super().accept()
            if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return connection, address
            connection.close()
        raise BlockingIOError  # as if there were no more: others have their turn


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; `setting` names what chooses another port. SetupError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is named because asyncio disables Nagle's algorithm only then; with it, the first samples
        # would wait 40 ms for the client to acknowledge the headers.
        bound = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(socket.SOMAXCONN)  # now: of two servers started at once only one may get the port
        except BaseException:
            bound.close()
            raise
    except (socket.gaierror, UnicodeError) as error:  # the latter for a name that no name server could know
        reason = getattr(error, "strerror", None) or "not a name"
        raise SetupError(
            f"{host!r} is not an address of this machine ({reason}): set ORPHEUS_HOST."
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
        self._server: Server | None = None
        self._failure: OrpheusError | None = None

    def ending_on_failure(self, load: Callable[P, T]) -> Callable[P, T]:
        """`load` wrapped so that its failure also ends the process, with the error's exit code."""

        def wrapped(*args: P.args, **named: P.kwargs) -> T:
            try:
                return load(*args, **named)
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
        logging.getLogger("uvicorn.access").addFilter(_not_a_probe)
        self._server = Server(
            app,
            drain,
            log_config=None,  # orpheus.logs has configured logging
            access_log=drain is None,
            timeout_graceful_shutdown=CLOSE_S if drain else self._settings.drain_s,
        )
        if self._failure is None:
            self._server.run(sockets=[bound])
        bound.close()
        if self._failure is not None:
            raise self._failure


class Server(uvicorn.Server):
    """uvicorn with our protocols and limits. Drains before it shuts down: uvicorn alone would close sockets mid-word."""

    def __init__(self, app: ASGIApp, drain: Drain | None = None, **options: Any) -> None:
        """`options` are uvicorn's."""
        self._connections = Connections(HttpProtocol)
        self._drain = drain
        self._accept_reported_s = -math.inf
        config = uvicorn.Config(
            app,
            http=self._connections.peer,  # type: ignore[arg-type]  # makes a protocol, as the class would
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws=WebSocketProtocol,
            ws_max_size=MAX_BODY_BYTES,
            ws_per_message_deflate=False,  # compressing audio gains nothing and would cost a core
            backlog=ACCEPTED_AT_ONCE,
            server_header=False,
            **options,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().set_exception_handler(self._report)
        for listener in sockets or ():
            listener.listen(socket.SOMAXCONN)  # what waits; uvicorn's backlog is both

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain is not None:
            for listener in self.servers:
                listener.close()
            await self._drain(lambda: self.force_exit)
            for task in self.server_state.tasks:
                task.cancel()  # those that did not finish in time
        self._connections.stop_lingering()
        await super().shutdown(sockets)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an error of the event loop; a lack of descriptors, which comes with each try, once a second."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
            return
        for _ in range(ACCEPTED_AT_ONCE):  # asyncio tries again only in a second
            self._connections.make_room()
        if loop.time() - self._accept_reported_s >= 1:
            self._accept_reported_s = loop.time()
            log.error("cannot accept connections (%s): raise the limit, ulimit -n", error.strerror)


def _not_a_probe(record: logging.LogRecord) -> bool:
    """Keeps health checks and scrapes, which come every few seconds, out of the access log."""
    path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
    return path not in PROBES


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
