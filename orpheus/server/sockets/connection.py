"""An accepted WebSocket with flow control, timeouts and a close code for every outcome; shared by all protocols.

Messages in, frames out. A client that stops reading is dropped; one that sends nothing for too long is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import WebSocket, WebSocketDisconnect

from orpheus.errors import AtCapacity, NotReady, OrpheusError, RequestError, TooLarge
from orpheus.http.connections import STALL_S

log = logging.getLogger(__name__)

SAMPLE_RATE = 24_000  # Hz, of protocols that cannot announce another
MAX_UNREAD_BYTES = 64 * 1024  # the next frame waits until the client has no more than this left to read
POLL_S = 0.02  # between two checks of the unread bytes
FIRST_TEXT_S = 60.0  # a socket that sends no text within this time is closed: unmute leaks them
IDLE_S = 300.0  # longest silence of a client between texts
KEEP_ALIVE_S = 10.0  # proxies close connections that are silent for longer, some after 15 s

# Close codes (RFC 6455 and the IANA registry).
COMPLETE, POLICY, TOO_BIG, FAILED, TRY_AGAIN = 1000, 1008, 1009, 1011, 1013


class ClientIdle(Exception):
    """The client sent nothing for too long."""


class ClientStalled(Exception):
    """The client stopped reading: not even a close frame would reach it."""


class Connection:
    """What every protocol needs of its WebSocket."""

    def __init__(self, socket: WebSocket, *, may_be_silent: bool = False) -> None:
        """`may_be_silent`: a client that sends nothing is not closed, as long as its WebSocket is alive."""
        self.socket = socket
        self._may_be_silent = may_be_silent
        self.sent_s = time.monotonic()  # of the last frame
        self.has_text = False  # set by the protocol at the client's first text
        self._active_s = self.sent_s  # of the last message received or audio sent
        self._returned: deque[str | bytes] = deque()
        # Bytes the client has yet to read, if the server reports them: orpheus.http.process does, Modal's does not.
        extension = (socket.scope.get("extensions") or {}).get("orpheus.unread", {})
        self._unread: Callable[[], int] = extension.get("bytes", lambda: 0)

    async def send(self, data: bytes | str) -> None:
        """Send one frame. ClientStalled if the client reads nothing for STALL_S."""
        send = self.socket.send_bytes if isinstance(data, bytes) else self.socket.send_text
        async with self._flow_control():
            await send(data)  # type: ignore[arg-type]
        self.sent_s = time.monotonic()

    async def close(self, code: int, reason: str) -> None:
        """ClientStalled as for `send`: a close frame queues behind the frames sent before it."""
        async with self._flow_control():
            await self.socket.close(code, reason)

    @contextlib.asynccontextmanager
    async def _flow_control(self) -> AsyncIterator[None]:
        """Waits until the client has read most of what was sent, for as long as it makes progress."""
        stall_s = STALL_S
        while self._unread() > MAX_UNREAD_BYTES:  # noqa: ASYNC110 - the server drops a client that reads nothing
            await asyncio.sleep(POLL_S)
        try:
            async with asyncio.timeout(stall_s):
                yield
        except TimeoutError:
            raise ClientStalled(f"it read nothing for {stall_s:g} s") from None

    async def send_audio(self, data: bytes) -> None:
        """Send one frame, which also counts as a sign of activity."""
        await self.send(data)
        self._active_s = self.sent_s

    async def receive(self) -> str | bytes:
        """The next message. WebSocketDisconnect if the client left, ClientIdle if neither side is active."""
        if self._returned:
            return self._returned.popleft()
        # A message that has arrived already would not let others have their turn. Not behind it: who is cancelled must
        # not lose it.
        await asyncio.sleep(0)
        while True:
            limit_s = IDLE_S if self.has_text else FIRST_TEXT_S
            left_s = self._active_s + limit_s - time.monotonic()
            ends_s = None if self._may_be_silent else asyncio.get_running_loop().time() + left_s
            try:
                async with asyncio.timeout_at(ends_s):
                    message = await self.socket.receive()
            except TimeoutError:
                if time.monotonic() - self._active_s >= limit_s:
                    raise ClientIdle from None
                continue  # audio was sent meanwhile
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            self._active_s = time.monotonic()
            text = message.get("text")
            return text if isinstance(text, str) else bytes(message.get("bytes") or b"")

    def put_back(self, message: str | bytes) -> None:
        """Let a message be received again."""
        self._returned.append(message)

    async def keep_alive(self, send: Callable[[], Awaitable[None]], quiet_s: float | None = None) -> None:
        """Call `send` whenever nothing was sent for `quiet_s`, or KEEP_ALIVE_S."""
        limit_s = KEEP_ALIVE_S if quiet_s is None else quiet_s
        while True:
            left_s = self.sent_s + limit_s - time.monotonic()
            if left_s <= 0:
                await send()
            await asyncio.sleep(max(0.05, left_s))


async def serve(connection: Connection, conversation: Awaitable[None]) -> None:
    """Run `conversation` on an accepted WebSocket, and close it with the code that fits its outcome."""
    code, reason = COMPLETE, ""
    try:
        try:
            await conversation
        except ClientIdle:
            reason = "closed: no text was received for too long"
        except OrpheusError as error:
            code, reason = close_code(error), close_reason(error)
        with contextlib.suppress(RuntimeError):  # the client may have left meanwhile
            await connection.close(code, reason)
    except WebSocketDisconnect:
        pass
    except ClientStalled as error:
        log.info("dropped a client: %s", error)


def close_code(error: OrpheusError) -> int:
    if isinstance(error, AtCapacity | NotReady):
        return TRY_AGAIN
    if isinstance(error, TooLarge):
        return TOO_BIG
    return POLICY if isinstance(error, RequestError) else FAILED


def close_reason(error: OrpheusError) -> str:
    """The error's sentence, shortened to the 123 bytes that fit a close frame."""
    encoded = str(error).encode()
    return str(error) if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "…"
