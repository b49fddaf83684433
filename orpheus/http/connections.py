"""What one connection can cost, whatever a client sends or leaves unread: time, memory, descriptors, turns.

    socket ── asyncio ── Peer ── uvicorn's protocol ── application
                          └───── Connections: all of a server, who is next, who must go

A Peer stands between the two: to asyncio it is a protocol, to uvicorn a transport. It hands bytes on in small slices,
one connection after another, so that the event loop stays free whatever they contain; it closes so that the client can
read the answer; and it ends what makes no progress. The limits are below, and in docs/operate.md for whoever runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import resource
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Protocol, cast

from orpheus.errors import AtCapacity, OrpheusError, RequestError

log = logging.getLogger(__name__)

HEAD_S = 10.0  # from a connection, or from the last answer, to the last header of a request
BODY_S = 20.0  # from the last header to the end of the body,
BODY_BYTES_PER_S = 1024  # and a second more for each of these received
STALL_S = 20.0  # a client that reads nothing of what was written for it for this long is dropped
LINGER_S = 5.0  # how long a client that was refused may go on sending before it is cut off,
LINGER_BYTES = 32 << 20  # and how much
CHECK_S = 0.5  # between two looks at all connections

SLICE_BYTES = 1024  # parsed in one piece: at worst 170 chunks of one byte, or as many WebSocket frames; 3 ms
TURN_S = 0.002  # of parsing, then others have their turn,
REST_S = 0.004  # for so long if whoever waits has sent more than
LIGHT_BYTES = 4 * 1024
READ_BYTES = 16 * 1024  # at a time; the work in them is done even if the client has left
MAX_UNPARSED_BYTES = 32 * 1024  # more is left with the client

MAX_CONNECTIONS = 4096
RESERVED_DESCRIPTORS = 64  # for listeners, logs, weights, libraries
GONE_S = 0.05  # between two looks whether a client that has sent its last byte is still there


class TookTooLong(RequestError):
    status = 408
    code = "request_timeout"


class TooManyConnections(AtCapacity):
    status = 503


class Http(Protocol):
    """What a Peer asks of uvicorn's protocols, as extended in orpheus.http.protocols."""

    @property
    def awaits(self) -> object | None:
        """What the client has to send before it can be answered, different for each request; None if nothing."""

    @property
    def awaits_body(self) -> bool: ...

    @property
    def silent(self) -> bool:
        """Whether nothing was asked for that is not answered: closing the connection loses no work."""

    @property
    def answers(self) -> bool:
        """Whether a whole request is being answered, so that a client may have sent its last byte and still read."""

    @property
    def sends(self) -> bool:
        """Whether its answer has begun and is not complete."""

    @property
    def receives(self) -> bool:
        """Whether the client may still be sending what will not be read."""

    def probe(self) -> None:
        """Write what a client that reads ignores, and the system of a client that has left rejects."""

    def refuse(self, error: OrpheusError) -> None:
        """Answer with `error` if nothing was answered yet, and close."""


class Connections:
    """All connections of a server."""

    def __init__(self, protocol: Callable[..., asyncio.Protocol], most: int | None = None) -> None:
        """`protocol` makes uvicorn's protocol of a connection; `most` are open at a time."""
        self.most = most_connections() if most is None else most
        self.buffer = memoryview(bytearray(READ_BYTES))  # each peer empties it at once
        self.lingers = True
        self._protocol = protocol
        self._new: dict[Peer, None] = {}  # who has asked for nothing yet, by when they came
        self._known: dict[Peer, None] = {}  # the others, by when they last asked for something
        self._light, self._heavy = _Turns(0), _Turns(REST_S)
        self._checking = False

    def peer(self, **options: Any) -> Peer:
        """The protocol of a new connection, made from what uvicorn gives to its own."""
        return Peer(self, self._protocol(**options))

    def add(self, peer: Peer) -> bool:
        """False if there is no room for it; it is then to be refused."""
        has_room = len(self._new) + len(self._known) < self.most or self.make_room()
        self._new[peer] = None
        if not self._checking:
            self._checking = True
            peer.loop.call_later(CHECK_S, self._check, peer.loop)
        return has_room

    def remove(self, peer: Peer) -> None:
        self._new.pop(peer, None)
        self._known.pop(peer, None)

    def make_room(self) -> bool:
        """Drop the client that has asked for nothing for longest, if there is one."""
        for peer in chain(self._new, self._known):
            if peer.silent:
                peer.abort()
                self.remove(peer)
                return True
        return False

    def stop_lingering(self) -> None:
        """Close at once from now on: the server ends."""
        self.lingers = False
        for peer in [*self._new, *self._known]:
            if peer.is_closing():
                peer.abort()

    def asked(self, peer: Peer) -> None:
        """Note that this client has just asked for something."""
        if peer in self._new or peer in self._known:
            self.remove(peer)
            self._known[peer] = None

    def wants_turn(self, peer: Peer) -> None:
        """Parse what it has received, when it is its turn: those who ask before those who flood."""
        (self._heavy if peer.unparsed_bytes > LIGHT_BYTES else self._light).add(peer)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for peer in [*self._new, *self._known]:
            peer.check(now_s)
        self._checking = bool(self._new or self._known)
        if self._checking:
            loop.call_later(CHECK_S, self._check, loop)


class _Turns:
    """Connections whose bytes are parsed, a slice of each after another."""

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._waiting: deque[Peer] = deque()
        self._runs = False

    def add(self, peer: Peer) -> None:
        self._waiting.append(peer)
        if not self._runs:
            self._runs = True
            peer.loop.call_soon(self._run, peer.loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        until_s = loop.time() + TURN_S
        while self._waiting and loop.time() < until_s:
            peer = self._waiting.popleft()
            if peer.parse():
                self._waiting.append(peer)
        self._runs = bool(self._waiting)
        if self._runs:
            loop.call_later(self._rest_s, self._run, loop)


class Peer(asyncio.BufferedProtocol, asyncio.Transport):
    """One connection."""

    def __init__(self, connections: Connections, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self._connections = connections
        self._protocol = protocol
        self._transport: asyncio.Transport
        self._socket: socket.socket
        self._unparsed = bytearray()
        self._has_turn = False  # it waits for one
        self._paused = False  # by uvicorn, which has enough
        self._reading = True
        self._eof = False  # the client sends nothing more
        self._closing = False
        self._lost = False
        self._stage: object | None = None  # what of the request is awaited,
        self._stage_s = self.loop.time()  # since when,
        self._stage_bytes = 0  # and how many bytes were received before
        self._received = 0  # bytes
        self._written = 0
        self._read = 0  # by the client, of what was written
        self._read_s = self._stage_s  # when it last read, or had read everything

    @property
    def _http(self) -> Http:
        return cast(Http, self._protocol)

    # A protocol, to asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        has_room = self._connections.add(self)
        self._protocol.connection_made(self)
        self._stage = self._http.awaits
        if not has_room:
            self._http.refuse(
                TooManyConnections("The server has too many connections; try again in a moment.")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._closing = True
        self._unparsed.clear()
        self._connections.remove(self)
        self._protocol.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        if self._closing:
            if self._received - self._stage_bytes > LINGER_BYTES:
                self.abort()
            return
        self._unparsed += self._connections.buffer[:nbytes]
        self._want_turn()
        self._read_or_not()

    def eof_received(self) -> bool:
        """A client may shut down its side once it has asked, and read the answer. One that left looks the same."""
        self._eof = True
        return not self._closing and (bool(self._unparsed) or self._outlives_eof())

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # A transport, to uvicorn

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing:
            self._written += len(data)
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self._paused = True
        self._read_or_not()

    def resume_reading(self) -> None:
        self._paused = False
        self._want_turn()
        self._read_or_not()

    def close(self) -> None:
        """Close once the client has what was written.

        If it is still sending, closing at once would reset the connection, and the client never see the answer: what
        it sends is discarded for a while.
        """
        if self._closing:
            return
        lingers = self._connections.lingers and not self._eof and self._http.receives
        self._closing = True
        self._unparsed.clear()
        self._stage_s, self._stage_bytes = self.loop.time(), self._received
        self._read_or_not()
        if lingers:
            with contextlib.suppress(OSError):  # it is gone
                self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    # To Connections

    @property
    def unparsed_bytes(self) -> int:
        return len(self._unparsed)

    @property
    def silent(self) -> bool:
        return self._closing or self._http.silent

    def parse(self) -> bool:
        """Hand the next slice to uvicorn; whether another turn is wanted."""
        self._has_turn = False
        if self._closing or self._paused or not self._unparsed:
            return False
        data = bytes(self._unparsed[:SLICE_BYTES])
        del self._unparsed[:SLICE_BYTES]
        try:
            self._protocol.data_received(data)
        except Exception:
            log.exception("a connection is dropped: its bytes could not be parsed")
            self.abort()
            return False
        self._note_stage(self.loop.time())
        if not self._http.silent:
            self._connections.asked(self)
        self._read_or_not()
        if self._eof and not self._unparsed and not self._closing and not self._outlives_eof():
            self.close()
        self._has_turn = bool(self._unparsed) and not self._paused
        return self._has_turn

    def check(self, now_s: float) -> None:
        """End what takes too long."""
        if self._lost:
            return
        self._check_reading(now_s)
        if self._closing:
            flushed = not self._transport.get_write_buffer_size()
            if flushed and now_s - self._stage_s > LINGER_S:
                self.abort()
            return
        self._note_stage(now_s)
        if len(self._unparsed) > SLICE_BYTES:
            self._stage_s = now_s  # it is we who are slow
        elif self._stage is not None:
            self._check_pace(now_s)

    # For itself

    def _check_reading(self, now_s: float) -> None:
        if self._written == self._read:
            self._read_s = now_s
            return
        read = self._written - self._transport.get_write_buffer_size() - _in_kernel(self._socket)
        if read != self._read:
            self._read, self._read_s = read, now_s
        elif now_s - self._read_s > STALL_S:
            log.info("dropped a client: it read nothing for %g s", STALL_S)
            with contextlib.suppress(OSError):  # resets it: the system too forgets what was not read
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()

    def _note_stage(self, now_s: float) -> None:
        stage = self._http.awaits
        if stage != self._stage:
            self._stage, self._stage_s = stage, now_s
            self._stage_bytes = self._received - len(self._unparsed)

    def _check_pace(self, now_s: float) -> None:
        body, received = self._http.awaits_body, self._received - self._stage_bytes
        limit_s = BODY_S + received / BODY_BYTES_PER_S if body else HEAD_S
        if now_s - self._stage_s <= limit_s:
            return
        if body or received:
            part = "body" if body else "headers"
            self._http.refuse(
                TookTooLong(f"The {part} of the request took longer than {limit_s:.0f} s; send it again.")
            )
        else:
            self.close()

    def _want_turn(self) -> None:
        if self._unparsed and not (self._has_turn or self._paused or self._closing):
            self._has_turn = True
            self._connections.wants_turn(self)

    def _read_or_not(self) -> None:
        """Read from the client while there is room, or to discard."""
        if self._eof or self._lost:
            return
        if self._closing:
            wanted = True
        else:
            has_enough = self._paused or len(self._unparsed) > MAX_UNPARSED_BYTES
            wanted = not has_enough and (self._reading or not self._unparsed)
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _outlives_eof(self) -> bool:
        """Whether to keep the connection after the client's last byte; it is then closed when it is answered."""
        # In the middle of an answer nothing can be sent that a living client would ignore, and one that has left must be
        # noticed at once, even while nothing is generated: there, the last byte is taken for leaving.
        if not self._http.answers or self._http.sends:
            return False
        self._http.probe()
        self._look_after_eof()
        return True

    def _look_after_eof(self) -> None:
        if self._closing:
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # it rejected something: it has left
            self.abort()
        elif not self._http.answers and not self._unparsed:
            self.close()
        else:
            self.loop.call_later(GONE_S, self._look_after_eof)


def most_connections() -> int:
    """How many clients the descriptors of this process suffice for: each may need another, to tier 1."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (limit - RESERVED_DESCRIPTORS) // 2))


def _in_kernel(connection: socket.socket) -> int:
    """Bytes that the system holds because the client has not read them; 0 where the system does not say.

    Without them, a client that reads a few kilobytes a second would seem to stand still for a minute: the system takes
    more from us only once it has got rid of a third of its megabytes.
    """
    with contextlib.suppress(OSError):
        (size,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
        return int(size)
    return 0
