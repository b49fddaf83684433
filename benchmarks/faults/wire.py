"""Requests, handshakes and frames that no client should send, each with the status or close code it is to get.

All of them are answered, and then closed: a client that is only mistaken must be able to read why.
"""

from __future__ import annotations

from benchmarks.faults.hostile import (
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Headers,
    chunked,
    frame,
    head,
    post,
    upgrade,
)
from orpheus.http.body_limit import MAX_BODY_BYTES

Wrong = dict[str, tuple[bytes, int]]
UNKNOWN = "/nowhere"


def wrong_requests(path: str, keys: Headers = ()) -> Wrong:
    """Requests, with the status of each. `path` takes POST; `keys` are headers that open it."""
    length = ("Content-Length", "3")
    empty = post(b"", path, keys)
    return {
        "an unknown path, a body that does not come": (post(b"x", UNKNOWN, keys)[:-1], 404),
        "an unknown path, chunks that do not come": (chunked(UNKNOWN, keys), 404),
        "a body too long": (post(bytes(MAX_BODY_BYTES + 1), path, keys), 413),
        "a length too long": (empty.replace(b"Length: 0", b"Length: 9999999999"), 413),
        "a negative length": (empty.replace(b"Length: 0", b"Length: -1"), 400),
        "a length of 40 digits": (empty.replace(b"Length: 0", b"Length: " + b"9" * 40), 400),
        "two lengths": (post(b"1", path, [("Content-Length", "2"), *keys]), 400),
        "a length and chunks": (chunked(path, [length, *keys]) + b"0\r\n\r\n", 400),
        "gzip, chunked": (head("POST", path, [("Transfer-Encoding", "gzip, chunked"), *keys]), 400),
        "xchunked": (head("POST", path, [("Transfer-Encoding", "xchunked"), *keys]), 400),
        "a space before the colon": (head("POST", path, [("Transfer-Encoding ", "chunked"), *keys]), 400),
        "a chunk of negative length": (chunked(path, keys) + b"-1\r\n", 400),
        "a chunk of no length": (chunked(path, keys) + b"z\r\n", 400),
        "a line of 1 MB": (b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n", 431),
        "a cookie of 70 KB": (head("GET", "/live", [("Cookie", "x" * 70_000), *keys]), 431),
        "700 headers": (head("GET", "/live", [*[("X-A", "x" * 100)] * 700, *keys]), 431),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        "every byte": (bytes(range(256)) * 8, 400),
        "empty lines": (b"\r\n\r\n\r\n", 400),
        "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 401 if keys else 404),
    }


def wrong_handshakes(path: str, keys: Headers = ()) -> Wrong:
    """WebSocket handshakes, with the status of each. `path` takes sockets; `keys` are headers that open it."""
    plain = upgrade(path, keys)
    many = [(f"Sec-WebSocket-X{number}", "x") for number in range(200)]
    return {
        "a cookie of 70 KB": (upgrade(path, [("Cookie", "x" * 70_000), *keys]), 431),
        "a protocol of 9 KB": (upgrade(path, [("Sec-WebSocket-Protocol", "x" * 9000), *keys]), 431),
        "200 headers of WebSockets": (upgrade(path, [*many, *keys]), 431),
        "a query of 9 KB": (upgrade(path + "?" + "x" * 9000, keys), 414),
        "a body": (upgrade(path, [("Content-Length", "5"), *keys]) + b"hello", 400),
        "a body that does not come": (upgrade(path, [("Content-Length", "5"), *keys]), 400),
        "chunks": (upgrade(path, [("Transfer-Encoding", "chunked"), *keys]) + b"0\r\n\r\n", 400),
        "version 8": (plain.replace(b"Version: 13", b"Version: 8"), 400),
        "a wrong key": (plain.replace(b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x"), 400),
        "by POST": (plain.replace(b"GET ", b"POST "), 405),
        "an unknown path": (upgrade(UNKNOWN, keys), 403),
    }


WRONG_FRAMES: Wrong = {
    "a frame of 10 MB": (frame(TEXT, bytes(10 << 20)), 1009),
    "a fragment too long": (frame(TEXT, b"", last=False) + frame(CONTINUATION, bytes(2 << 20)), 1009),
    "an endless frame": (b"\x81\xff" + b"\x00\x00\x7f\xff\xff\xff\xff\xff" + bytes(4), 1009),
    "not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character": (frame(TEXT, b"\xe2\x82", last=False) + frame(CONTINUATION, b""), 1007),
    "compressed": (frame(TEXT, b"x", reserved=4), 1002),
    "a ping in fragments": (frame(PING, b"x", last=False), 1002),
    "a long ping": (frame(PING, bytes(126)), 1002),
    "no beginning": (frame(CONTINUATION, b"x"), 1002),
    "of an unknown kind": (frame(3, b"x"), 1002),
    "not masked": (b"\x81\x01x", 1002),
    "a close": (frame(CLOSE, b"\x03\xe8"), 1000),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
}
