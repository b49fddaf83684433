"""An ASGI application → a listening process that ends cleanly, with the right exit code.

Knows nothing of what is served. A failure after the start that leaves nothing to serve with ends the process too: a
server that can never answer should not stay up looking healthy to whoever started it.
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
from rich.console import Console
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from orpheus import weights
from orpheus.errors import EngineError, OrpheusError, SetupError
from orpheus.http.body_limit import MAX_BODY_BYTES
from orpheus.settings import Settings
from orpheus.voices import languages_of, voices_of

LET_GO_S = 12.0  # a little more than uvicorn gives the other side to close
STOP_S = 1.0  # from the end of draining to the end of the process
Drain = Callable[[Callable[[], bool]], Awaitable[None]]  # is told how to learn that there is a hurry

T = TypeVar("T")


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A bound socket; SetupError in one sentence where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With its protocol named: asyncio turns Nagle's algorithm off only then, and without that the first
        # samples wait 40 ms for the client to acknowledge the headers.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(
                socket.SOMAXCONN
            )  # now, not later: two starts at once cannot both think they have it
        except BaseException:
            bound.close()
            raise
    except socket.gaierror as error:
        raise SetupError(f"{host!r} is no address of this machine: {error.strerror}.") from error
    except OSError as error:
        raise SetupError(
            f"{host}:{port} cannot be listened on ({error.strerror}): stop what uses it, or choose another "
            f"port with {setting}."
        ) from error
    return bound


class Process:
    """One server in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._failure: OrpheusError | None = None

    def ending_on_failure(self, load: Callable[[], T]) -> Callable[[], T]:
        """`load`, such that its failure also ends the process with the error's exit code."""

        def loading() -> T:
            try:
                return load()
            except OrpheusError as error:
                self.end(error)
                raise
            except Exception as error:
                self.end(EngineError(f"Loading failed: {type(error).__name__}: {error}"))
                raise

        return loading

    def end(self, failure: OrpheusError) -> None:
        """Stop serving, because of `failure`; from any thread."""
        self._failure = failure
        if self._server:
            self._server.should_exit = True

    def serve(self, app: ASGIApp, bound: socket.socket, drain: Drain | None = None) -> None:
        """Serve until told to stop. Raises the failure that ended it, if one did.

        With `drain`, which ends what is under way as its protocols ask, requests are told by `app` itself in
        the log; without, uvicorn gives them ORPHEUS_DRAIN_S.
        """
        config = uvicorn.Config(
            app,
            log_config=None,  # orpheus.logs has set the one form for all
            access_log=drain is None,
            timeout_graceful_shutdown=1 if drain else self._settings.drain_s,
            ws=WebSocketProtocol,
            ws_max_size=MAX_BODY_BYTES,
            ws_per_message_deflate=False,  # audio does not shrink, and it would cost a core
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
    """Lets go of a client that takes nothing any more, and of none that reads slowly."""

    _behind = False  # whether a ping had to wait

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if (scope := getattr(self, "scope", None)) is not None:  # not refused
            scope["extensions"]["orpheus.unread"] = {"bytes": self.transport.get_write_buffer_size}

    def keepalive_timeout(self) -> None:
        """A ping waits behind what is still unread, and then its answer takes a while."""
        behind, self._behind = self._behind, self.transport.get_write_buffer_size() > 0
        if (behind or self._behind) and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
        else:
            super().keepalive_timeout()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        # Closing alone would wait for it for ever.
        self.loop.call_later(LET_GO_S, self.transport.abort)


class _Server(uvicorn.Server):
    """Drains before it shuts down: uvicorn alone would close WebSockets in the middle of a word."""

    def __init__(self, config: uvicorn.Config, drain: Drain | None) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain is not None:
            for listener in self.servers:
                listener.close()
            await self._drain(lambda: self.force_exit)
            for task in self.server_state.tasks:
                task.cancel()  # those that gave no sign of life in all that time
        await super().shutdown(sockets)


def _not_a_probe(record: logging.LogRecord) -> bool:
    """Whether an access line is worth a line: health and metrics are asked for every few seconds."""
    path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
    return path not in ("/health", "/ready", "/metrics")


def url_of(host: str, port: int) -> str:
    """The URL to call a server at that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(settings: Settings, host: str, port: int, console: Console) -> None:
    """Tell whoever started it where it is, what it speaks with, and what to try."""
    url = url_of(host, port)
    voices = [voice.id for voice in voices_of(languages_of(weights.model_name(settings)))]
    # As for every client of ours, by its name: what is printed may be a log.
    key = ' -H "x-api-key: $ORPHEUS_API_KEY"' if settings.api_keys else ""
    body = f'{{"input": "Hello, I am ready.", "voice": "{voices[0]}"}}'
    console.print(
        f"\nOrpheus is ready at {url}\n"
        f"  model   {weights.model_name(settings)}, codec {weights.codec_name(settings)}\n"
        f"  voice   {voices[0]} ({', '.join(voices)})\n"
        f"  try     curl {url}/v1/audio/speech{key} -H 'Content-Type: application/json' "
        f"-d '{body}' -o hello.mp3\n",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def end_with_parent(drain_s: float) -> None:
    """Stop when standard input closes: a supervisor that was killed leaves no orphan."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock, held here, would break the interpreter's exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(drain_s + STOP_S, os._exit, (1,)).start()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
