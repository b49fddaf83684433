"""Clients that cost a server as much as they can: raw sockets that send what no library would, or read nothing.

Building blocks (`opened`, `post`, `upgrade`, `frame`, `answer_of`), and floods in FLOODS: each opens connections to a
server, sends what it has to from a thread, and goes on until it is stopped. `Probe` measures what others notice.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

SPEECH = "/v1/audio/speech"
SOCKET = "/v1/audio/speech/stream"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

Headers = Sequence[tuple[str, str]]
End = Literal["closed", "reset", "open"]


def opened(url: str, *, receive_bytes: int | None = None, timeout_s: float = 10) -> socket.socket:
    """A connection; its kernel holds no more than about `receive_bytes` that were not read."""
    at = urlsplit(url)
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(timeout_s)
    connection.connect((at.hostname, at.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head(method: str, path: str, headers: Headers = (), version: str = "1.1") -> bytes:
    """Request line and headers, with the blank line."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode()


def post(body: Mapping[str, object] | bytes, path: str = SPEECH, headers: Headers = ()) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    return head("POST", path, [*sent, *headers]) + content


def chunked(path: str = SPEECH, headers: Headers = ()) -> bytes:
    """The head of a request whose body comes in chunks."""
    return head("POST", path, [("Transfer-Encoding", "chunked"), *headers])


def upgrade(path: str = SOCKET, headers: Headers = ()) -> bytes:
    """A WebSocket handshake."""
    needed = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    return head("GET", path, [*needed, *headers])


def frame(opcode: int, payload: bytes = b"", *, last: bool = True, reserved: int = 0) -> bytes:
    """A WebSocket frame, masked with zeros; `reserved` are the three bits between."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    return bytes([last << 7 | reserved << 4 | opcode]) + length + bytes(4) + payload


def message(**fields: object) -> bytes:
    """A JSON message as a frame."""
    return frame(TEXT, json.dumps(fields).encode())


def socket_of(
    url: str, path: str = SOCKET, headers: Headers = (), *, receive_bytes: int | None = None
) -> socket.socket:
    """An accepted WebSocket."""
    connection = opened(url, receive_bytes=receive_bytes)
    shake(connection, path, headers)
    return connection


def shake(connection: socket.socket, path: str = SOCKET, headers: Headers = ()) -> None:
    """Make it a WebSocket."""
    connection.sendall(upgrade(path, headers))
    got = received_until(connection, b"\r\n\r\n", at_most=1)
    assert got.startswith(b"HTTP/1.1 101"), got[:200]


def received_until(connection: socket.socket, end: bytes, *, at_most: int = 4096) -> bytes:
    """What comes, up to `end`; `at_most` bytes are read at a time."""
    got = b""
    while not got.endswith(end):
        data = connection.recv(at_most)
        assert data, f"closed after {got[:200]!r}"
        got += data
    return got


@dataclass
class Answer:
    """What came until the connection ended, or nothing more came."""

    data: bytes = b""
    end: End = "open"
    seconds: float = 0.0

    @property
    def status(self) -> int:
        """Of the response; 0 if there is none."""
        return int(self.data.split(b" ", 2)[1]) if self.data.startswith(b"HTTP/1.1 ") else 0

    @property
    def close_code(self) -> int:
        """Of the last close frame; 0 if there is none. Frames of a server are not masked."""
        at, code = 0, 0
        while at + 2 <= len(self.data):
            opcode, size = self.data[at] & 15, self.data[at + 1]
            at += 2
            if size == 126:
                size, at = int.from_bytes(self.data[at : at + 2], "big"), at + 2
            elif size == 127:
                size, at = int.from_bytes(self.data[at : at + 8], "big"), at + 8
            if opcode == CLOSE and size >= 2:
                code = int.from_bytes(self.data[at : at + 2], "big")
            at += size
        return code


def answer_of(connection: socket.socket, within_s: float = 10) -> Answer:
    """Everything until the server closes; `end` is "open" if it has not after `within_s`."""
    answer = Answer()
    started_s = time.monotonic()
    try:
        while (left_s := started_s + within_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            data = connection.recv(65536)
            if not data:
                answer.end = "closed"
                break
            answer.data += data
    except TimeoutError:
        pass
    except OSError:
        answer.end = "reset"
    answer.seconds = time.monotonic() - started_s
    return answer


def asked(url: str, sent: bytes, within_s: float = 10) -> Answer:
    """The answer to these bytes, on a connection of their own."""
    with contextlib.closing(opened(url)) as connection:
        with contextlib.suppress(OSError):  # it may be refused before all was sent
            connection.sendall(sent)
        return answer_of(connection, within_s)


def dribble(connection: socket.socket, data: bytes, every_s: float, stop: threading.Event) -> None:
    """Send a byte at a time, until stopped or closed."""
    for byte in data:
        if stop.wait(every_s):
            return
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return


def reset(connection: socket.socket) -> None:
    """Close so that the other side sees a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@dataclass
class Probe:
    """Asks a route every few milliseconds, each time on a new connection; the slowest answer counts."""

    url: str
    path: str = "/live"
    times_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def worst_s(self) -> float:
        return max(self.times_s, default=0.0)

    def ask(self, count: int, pause_s: float = 0.01) -> Self:
        for _ in range(count):
            started_s = time.monotonic()
            answer = asked(self.url, head("GET", self.path, [("Connection", "close")]), 30)
            self.times_s.append(time.monotonic() - started_s)
            self.failed += answer.status != 200
            time.sleep(pause_s)
        return self


Flood = Callable[[socket.socket, Headers], None]
"""Sends on a connection until it has enough, or is closed; the headers are those of a key, or none."""


def _dial(connection: socket.socket, keys: Headers, path: str = SOCKET) -> None:
    """`shake`, but go on if it is refused: so may whoever has no key."""
    connection.sendall(upgrade(path, keys))
    received_until(connection, b"\r\n\r\n", at_most=1)


def _messages(content: bytes, path: str = SOCKET, opcode: int = TEXT) -> Flood:
    """The same message for ever."""

    def flood(connection: socket.socket, keys: Headers) -> None:
        _dial(connection, keys, path)
        data = frame(opcode, content)
        while True:
            connection.sendall(data * max(1, 100_000 // len(data)))

    return flood


def one_byte_chunks(connection: socket.socket, keys: Headers) -> None:
    """A body of 300 KB in chunks of a byte."""
    connection.sendall(chunked(headers=keys) + b"1\r\n \r\n" * 300_000)


def tiny_messages(connection: socket.socket, keys: Headers) -> None:
    """20,000 messages of a byte on the plain socket."""
    _dial(connection, keys, "/ws?close=eos")
    connection.sendall(frame(TEXT, b"x") * 20_000)


def input_texts(connection: socket.socket, keys: Headers) -> None:
    """10,000 `input.text` of a word."""
    _dial(connection, keys)
    connection.sendall(message(type="input.text", text="word ") * 10_000)


def one_byte_fragments(connection: socket.socket, keys: Headers) -> None:
    """A message of 100 KB in fragments of a byte."""
    _dial(connection, keys)
    connection.sendall(frame(TEXT, b"x", last=False) + frame(CONTINUATION, b"x", last=False) * 100_000)


def empty_fragments(connection: socket.socket, keys: Headers) -> None:
    """A message of nothing, for ever."""
    _dial(connection, keys)
    connection.sendall(frame(TEXT, b"", last=False))
    while True:
        connection.sendall(frame(CONTINUATION, b"", last=False) * 10_000)


def pings(connection: socket.socket, keys: Headers) -> None:
    """150 MB of pings; no pong is read."""
    _dial(connection, keys)
    for _ in range(1200):
        connection.sendall(frame(PING, bytes(125)) * 1000)


def pipelined(connection: socket.socket, keys: Headers) -> None:
    """10,000 requests before the first answer."""
    connection.sendall(head("GET", "/live", keys) * 10_000)


def pipelined_posts(connection: socket.socket, keys: Headers) -> None:
    """Requests that are refused, one behind the other, for ever."""
    while True:
        connection.sendall(post(b"{}", headers=keys) * 100)


def long_line(connection: socket.socket, keys: Headers) -> None:
    """A request line of 1 MB."""
    connection.sendall(b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n")


def new_connections(connection: socket.socket, keys: Headers) -> None:
    """One after the other, thousands a second, each reset in the middle of its request."""
    at = "http://{}:{}".format(*connection.getpeername()[:2])
    while connection.fileno() >= 0:
        another = opened(at)
        another.sendall(post(b"{}", headers=keys)[:-1])
        reset(another)


FLOODS: dict[str, Flood] = {
    flood.__name__: flood
    for flood in (
        one_byte_chunks,
        tiny_messages,
        input_texts,
        one_byte_fragments,
        empty_fragments,
        pings,
        pipelined,
        pipelined_posts,
        long_line,
        new_connections,
    )
} | {
    "configs": _messages(b'{"type": "session.config", "voice": "tara"}'),
    "wrong_configs": _messages(b'{"type": "session.config", "voice": 5, "speed": "x", "lead_s": []}'),
    "ends_without_text": _messages(b'{"type": "input.done"}'),
    "cancels": _messages(b'{"type": "input.cancel"}'),
    "junk": _messages(b"{"),
    "deep_json": _messages(b"[" * 60_000),
    "megabytes": _messages(json.dumps({"type": "input.text", "text": "x" * 1_000_000}).encode()),
    "unmute_words": _messages(b"\x82\xa4type\xa4Text\xa4text\xa1x", "/api/tts_streaming", BINARY),
    "unmute_voices": _messages(
        b"\x82\xa4type\xa5Voice\xa9embedding\xdd\x00\x03\x0d\x40" + b"\x90" * 200_000,
        "/api/tts_streaming",
        BINARY,
    ),
    "unmute_junk": _messages(b"\xc1", "/api/tts_streaming", BINARY),
}


@contextlib.contextmanager
def flooded(
    url: str, flood: Flood, connections: int = 1, keys: Headers = ()
) -> Iterator[list[socket.socket]]:
    """`flood` runs on so many connections meanwhile."""
    opened_now = [opened(url, receive_bytes=4096) for _ in range(connections)]

    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, AssertionError):  # the server has enough of it
            flood(connection, keys)

    threads = [threading.Thread(target=run, args=(connection,), daemon=True) for connection in opened_now]
    for connection in opened_now:
        connection.settimeout(60)
    for thread in threads:
        thread.start()
    try:
        yield opened_now
    finally:
        for connection in opened_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in threads:
            thread.join(10)


def resident_mb(pid: int | None = None) -> float:
    """Memory of a process."""
    with open(f"/proc/{pid or os.getpid()}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
