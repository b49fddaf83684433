"""An accepted WebSocket → its messages in, frames out, and an end that is told, whatever happens.

Knows nothing of any protocol. A client that reads nothing is dropped, one that says nothing is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import WebSocket, WebSocketDisconnect

from orpheus.errors import AtCapacity, NotReady, OrpheusError, RequestError, TooLarge

log = logging.getLogger(__name__)

SAMPLE_RATE = 24_000  # Hz, where a protocol has no way to tell its client another
LITTLE_BYTES = 64 * 1024  # unread: the next frame may go
LOOK_S = 0.02  # from one look at what is unread to the next
STALL_S = 20.0  # a client that reads nothing for this long is dropped
FIRST_TEXT_S = 60.0  # a socket that sends no text within this is closed: unmute leaks them
IDLE_S = 300.0  # longest silence of a client between texts
KEEP_ALIVE_S = 10.0  # proxies close what is silent for longer, some after 15 s

# Close codes (RFC 6455 and the IANA registry).
COMPLETE, POLICY, TOO_BIG, FAILED, TRY_AGAIN = 1000, 1008, 1009, 1011, 1013


class Idle(Exception):
    """The client said nothing for too long."""


class NotReading(Exception):
    """The client takes nothing any more: not even a close frame would reach it."""


class Connection:
    """What every protocol needs of its socket."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.sent_s = time.monotonic()  # when something was last sent
        self.asked = False  # whether there was any text yet
        self._alive_s = self.sent_s  # when there was last a sign of use: a message, or audio
        # Bytes the client has still to read, where the server tells: orpheus.http.process does, Modal's does not.
        told = (socket.scope.get("extensions") or {}).get("orpheus.unread", {})
        self._unread: Callable[[], int] = told.get("bytes", lambda: 0)

    async def send(self, data: bytes | str) -> None:
        """One frame. NotReading where the client takes nothing for STALL_S."""
        send = self.socket.send_bytes if isinstance(data, bytes) else self.socket.send_text
        async with self._reading():
            await send(data)  # type: ignore[arg-type]
        self.sent_s = time.monotonic()

    async def close(self, code: int, reason: str) -> None:
        """NotReading as for `send`: a close frame waits behind what was sent before."""
        async with self._reading():
            await self.socket.close(code, reason)

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """A long frame may take its client long, as long as some of it is read."""
        stall_s = STALL_S
        least, gives_up_s = self._unread(), time.monotonic() + stall_s
        try:
            while (unread := self._unread()) > LITTLE_BYTES:
                if unread < least:
                    least, gives_up_s = unread, time.monotonic() + stall_s
                elif time.monotonic() > gives_up_s:
                    raise TimeoutError
                await asyncio.sleep(LOOK_S)
            async with asyncio.timeout(stall_s):
                yield
        except TimeoutError:
            raise NotReading(f"it read nothing for {stall_s:g} s") from None

    async def send_audio(self, data: bytes) -> None:
        await self.send(data)
        self._alive_s = self.sent_s

    async def receive(self) -> str | bytes:
        """The next message. WebSocketDisconnect where the client left, Idle where neither side has anything."""
        while True:
            limit_s = IDLE_S if self.asked else FIRST_TEXT_S
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + self._alive_s + limit_s - time.monotonic()
                ):
                    message = await self.socket.receive()
            except TimeoutError:
                if time.monotonic() - self._alive_s >= limit_s:
                    raise Idle from None
                continue
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            self._alive_s = time.monotonic()
            text = message.get("text")
            return text if isinstance(text, str) else bytes(message.get("bytes") or b"")

    async def keep_alive(self, message: Callable[[], Awaitable[None]]) -> None:
        """Say something whenever nothing was said for KEEP_ALIVE_S."""
        while True:
            quiet_s = time.monotonic() - self.sent_s
            if quiet_s >= KEEP_ALIVE_S:
                await message()
            await asyncio.sleep(max(0.05, KEEP_ALIVE_S - quiet_s))


async def serve(connection: Connection, conversation: Awaitable[None]) -> None:
    """Hold a conversation on an accepted socket, and close it with the code of how that went."""
    code, reason = COMPLETE, ""
    try:
        try:
            await conversation
        except Idle:
            reason = "closed: there was no text for too long"
        except OrpheusError as error:
            code, reason = close_code(error), close_reason(error)
        with contextlib.suppress(RuntimeError):  # it may have left meanwhile
            await connection.close(code, reason)
    except WebSocketDisconnect:
        pass
    except NotReading as error:
        log.info("dropped a client: %s", error)


def close_code(error: OrpheusError) -> int:
    if isinstance(error, AtCapacity | NotReady):
        return TRY_AGAIN
    if isinstance(error, TooLarge):
        return TOO_BIG
    return POLICY if isinstance(error, RequestError) else FAILED


def close_reason(error: OrpheusError) -> str:
    """The sentence, within the 123 bytes a close frame has for it."""
    encoded = str(error).encode()
    return str(error) if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "…"
