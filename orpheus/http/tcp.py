"""httpx's connections over asyncio's own transports, for a client of many streams that each get a little at a time.

By default httpx reads through anyio, which sets a deadline and tells the selector twice around every read: two fifths of
what it took to receive a frame of tokens (AMD EPYC, 2026-11-30). Here a connection is always read, up to a limit.
"""

# ruff: noqa: ASYNC109 - httpcore's methods take a timeout

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import httpcore
import httpx

MAX_UNREAD_BYTES = 256 * 1024  # more is left with the server until some of it is read
FALLBACK_S = 0.25  # to the next address of a host, if the one before has not answered


def direct_transport(limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    """httpx's transport over such connections, with no proxy. Its errors are httpx's."""
    transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
    # httpcore's pool takes it as an argument, but httpx does not pass one on.
    transport._pool._network_backend = _Backend()
    return transport


class _Backend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await _connect(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _connect(host: str, port: int) -> _Stream:
    """To the first address of a host that answers. The next is tried as well after FALLBACK_S, or once one refuses.

    As `loop.create_connection` does, which loses a connection that is made in the moment in which it is cancelled.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    turns: defaultdict[int, itertools.count[int]] = defaultdict(itertools.count)
    found.sort(key=lambda one: next(turns[one[0]]))  # IPv4 and IPv6 take turns
    attempts: list[asyncio.Task[_Stream]] = []
    running: set[asyncio.Task[_Stream]] = set()
    untried = iter(found)
    try:
        while True:
            if (address := next(untried, None)) is not None:
                attempts.append(asyncio.create_task(_connect_to(*address)))
                running.add(attempts[-1])
            if not running:
                return attempts[-1].result()  # which raises why
            patience_s = None if address is None else FALLBACK_S
            done, running = await asyncio.wait(
                running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                if attempt.exception() is None:
                    attempts.remove(attempt)
                    return attempt.result()
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_abandon)
            attempt.cancel()


async def _connect_to(family: int, kind: int, protocol: int, name: str, address: Any) -> _Stream:
    loop = asyncio.get_running_loop()
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        _, stream = await loop.create_connection(_Stream, sock=sock)
    except BaseException:
        sock.close()
        raise
    return stream


def _abandon(attempt: asyncio.Task[_Stream]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()._transport.abort()


class _Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. One read and one write at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._paused = False  # reading, because so much is unread
        self._ended = False  # nothing more comes
        self._error: Exception | None = None  # why
        self._arrival: asyncio.Future[None] | None = None  # of something to read, or of the end
        self._room: asyncio.Future[None] | None = None  # to write more

    # A protocol, to asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._arrival)

    def eof_received(self) -> None:
        self._ended = True
        _wake(self._arrival)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, exc
        _wake(self._arrival)
        _wake(self._room)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None

    # A stream, to httpcore

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._received and not self._ended:
            self._arrival = self._loop.create_future()
            try:
                if timeout is None:
                    await self._arrival
                else:
                    async with asyncio.timeout(timeout):
                        await self._arrival
            except TimeoutError as error:
                raise httpcore.ReadTimeout(str(error)) from error
        if not self._received and self._error is not None:
            raise httpcore.ReadError(str(self._error)) from self._error
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if self._paused and not self._ended:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._transport.is_closing():
            raise httpcore.WriteError("The connection is closed.") from self._error
        self._transport.write(buffer)
        if self._room is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self._room
            except TimeoutError as error:
                raise httpcore.WriteTimeout(str(error)) from error
            if self._error is not None:
                raise httpcore.WriteError(str(self._error)) from self._error

    async def aclose(self) -> None:
        self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        if (
            self._received
        ):  # it would be read as if it had come encrypted, and anyone in between can have sent it
            self._transport.abort()
            raise httpcore.ConnectError("The server sent something before the connection was encrypted.")
        try:
            async with asyncio.timeout(timeout):
                transport = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            self._transport.abort()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:  # which ssl.SSLError is
            self._transport.abort()
            raise httpcore.ConnectError(str(error)) from error
        self._transport = cast(asyncio.Transport, transport)
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # asked of an idle connection: whether the server has closed it
            return bool(self._received) or self._ended
        return self._transport.get_extra_info(
            {"client_addr": "sockname", "server_addr": "peername"}.get(info, info)
        )


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
