"""A tier 1 that misbehaves in every way we know, byte by byte over a plain TCP socket.

`FAULTS` has one entry for each way. Whatever is asked for with POST gets the fault that is set; /health is 200. Nothing
here knows how the fault is judged, or that pytest exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from benchmarks.faults.completions import event, whole
from orpheus.vocabulary import number_of, token_text

PING_S = 0.02  # between the bytes of a peer that trickles
FRAMES_HEARD = 12  # a second of audio: enough for every front to have sent some


class Peer:
    """The connection of one request."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int = 200, *lines: str) -> None:
        """The status line and headers; without any, those of a chunked event stream."""
        lines = lines or ("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        await self.raw("\r\n".join([f"HTTP/1.1 {status} Because", *lines, "", ""]).encode())

    async def chunk(self, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        if data:
            await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def events(self, *events: str) -> None:
        """A whole answer, well ended."""
        await self.head()
        for text in events:
            await self.chunk(text)
        await self.end()

    async def body(self, data: bytes, status: int, *lines: str) -> None:
        await self.head(status, f"Content-Length: {len(data)}", "Content-Type: application/json", *lines)
        await self.raw(data)

    async def trickle(self, send: Callable[[], Awaitable[None]]) -> None:
        """Until the other side has had enough."""
        while True:
            await send()
            await asyncio.sleep(PING_S)


Play = Callable[[Peer], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One way to misbehave, and the statuses that a client may see if no audio was sent before."""

    play: Play
    statuses: tuple[int, ...] = (502,)


def some_frames(frames: int = FRAMES_HEARD) -> list[str]:
    return whole(frames)[:frames]


def data(value: Any) -> str:
    """An event with any JSON in it, or any text."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"


def choice(**fields: Any) -> str:
    return data({"choices": [{"index": 0, "text": "", "finish_reason": None, **fields}]})


def sends(*events: str) -> Play:
    """These events, and the proper end of the body."""
    return lambda peer: peer.events(*events)


def refuses(status: int, body: bytes | str = b'{"error": {"message": "because"}}', *lines: str) -> Play:
    body = body.encode() if isinstance(body, str) else body
    return lambda peer: peer.body(body, status, *lines)


def then_trickles(text: str, *first: str) -> Play:
    """These events, and then `text` for ever."""

    async def play(peer: Peer) -> None:
        await peer.head()
        for one in first:
            await peer.chunk(one)
        await peer.trickle(lambda: peer.chunk(text))

    return play


async def _silent(peer: Peer) -> None:
    await asyncio.sleep(3600)


async def _silent_after_headers(peer: Peer) -> None:
    await peer.head()
    await asyncio.sleep(3600)


async def _slow_headers(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await peer.trickle(lambda: peer.raw(b"x"))


async def _endless_informational(peer: Peer) -> None:
    await peer.trickle(lambda: peer.raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"))


def _slow_body(status: int) -> Play:
    async def play(peer: Peer) -> None:
        await peer.head(status, "Content-Type: application/json", "Transfer-Encoding: chunked")
        await peer.trickle(lambda: peer.chunk(" "))

    return play


def _endless_body(status: int) -> Play:
    async def play(peer: Peer) -> None:
        await peer.head(status, "Content-Type: text/html", "Transfer-Encoding: chunked")
        while True:
            await peer.chunk(b"x" * 65536)

    return play


async def _endless_line(peer: Peer) -> None:
    await peer.head()
    await peer.chunk("data: ")
    while True:
        await peer.chunk(b"x" * 65536)


async def _endless_event(peer: Peer) -> None:
    await peer.head()
    while True:
        await peer.chunk(b"data: x\n" * 8192)


def _endless_audio(tokens_per_event: int) -> Play:
    async def play(peer: Peer) -> None:
        await peer.head()
        for index in itertools.count():
            tokens = [
                token_text(number_of(slot, 1 + (index if slot == 6 else slot) % 4000)) for slot in range(7)
            ]
            for start in range(0, 7, tokens_per_event):
                await peer.chunk(event("".join(tokens[start : start + tokens_per_event])))
            await asyncio.sleep(0.001)  # fast, yet the other side gets its share of this process

    return play


async def _bomb(peer: Peer) -> None:
    packed = gzip.compress(b"data: " + bytes(64 << 20))
    await peer.head(
        200, "Content-Type: text/event-stream", "Content-Encoding: gzip", f"Content-Length: {len(packed)}"
    )
    await peer.raw(packed)


async def _bad_gzip(peer: Peer) -> None:
    await peer.head(200, "Content-Type: text/event-stream", "Content-Encoding: gzip", "Content-Length: 7")
    await peer.raw(b"no gzip")


async def _unfinished_chunk(peer: Peer) -> None:
    await peer.head()
    await peer.chunk("".join(some_frames()))
    await peer.raw(b"ffff\r\ndata: {")


async def _chunk_of_garbage(peer: Peer) -> None:
    await peer.head()
    await peer.chunk("".join(some_frames()))
    await peer.raw(b"zz\r\n\x00\x01\x02\r\n")


async def _without_length(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    await peer.raw("".join(some_frames()).encode())


async def _page(peer: Peer) -> None:
    page = b"<html><title>Sign in to the network</title></html>"
    await peer.head(200, "Content-Type: text/html", f"Content-Length: {len(page)}")
    await peer.raw(page)


async def _many_headers(peer: Peer) -> None:
    await peer.head(200, *(f"X-{n}: {'x' * 100}" for n in range(5000)))


DEEP = "[" * 100_000 + "]" * 100_000

ENDS = {
    f"ends with {reason!r}": Fault(sends(*some_frames(), choice(finish_reason=reason), data("[DONE]")))
    for reason in (
        "abort",
        "error",
        "content_filter",
        "repetition",
        "tool_calls",
        "STOP",
        "cancelled",
        1,
        True,
        ["stop"],
    )
} | {
    "ends without a reason": Fault(sends(*some_frames(), data("[DONE]"))),
    "ends without [DONE] or a reason": Fault(sends(*some_frames())),
    "[DONE] first": Fault(sends(data("[DONE]"), *whole())),
    "no tokens": Fault(sends(choice(finish_reason="stop")), (500,)),
    "ends in the middle of a chunk": Fault(_unfinished_chunk),
    "an error event": Fault(sends(*some_frames(), data({"error": {"message": "out of memory"}}))),
    "an error as a list": Fault(sends(*some_frames(), data({"error": ["out", "of", "memory"]}))),
    "an error object": Fault(sends(*some_frames(), data({"object": "error", "message": "out of memory"}))),
}

HANGS = {
    "silent": Fault(_silent),
    "silent after the headers": Fault(_silent_after_headers),
    "slow headers": Fault(_slow_headers),
    "informational answers without end": Fault(_endless_informational),
    "pings": Fault(then_trickles(": ping\n\n")),
    "pings after audio": Fault(then_trickles(": ping\n\n", *some_frames())),
    "empty events": Fault(then_trickles("data:\n\n")),
    "events without a choice": Fault(then_trickles(data({"choices": []}))),
    "events without text": Fault(then_trickles(event(""))),
    "text without tokens": Fault(then_trickles(event("la la "))),
    "text without tokens after audio": Fault(then_trickles(event("la la "), *some_frames())),
    "half a token for ever": Fault(then_trickles(event("<custom_token_"))),
    "ids that are no audio": Fault(then_trickles(choice(token_ids=[7]))),
    "a slow 500": Fault(_slow_body(500)),
    "a slow 429": Fault(_slow_body(429), (429,)),
    "a slow 503": Fault(_slow_body(503), (503,)),
    "an endless 500": Fault(_endless_body(500)),
    "an endless line": Fault(_endless_line),
    "an endless event": Fault(_endless_event),
    "a bomb": Fault(_bomb),
    "endless audio": Fault(_endless_audio(7), (500,)),
    "endless audio, a token at a time": Fault(_endless_audio(1), (500,)),
}

NONSENSE = {
    "no JSON": Fault(sends(data("{"))),
    "deep JSON": Fault(sends(data(DEEP))),
    "deep JSON inside": Fault(sends(data('{"choices": ' + DEEP + "}"))),
    "a list": Fault(sends(data([1]))),
    "a number": Fault(sends(data("5"))),
    "a huge number": Fault(sends(data("9" * 5000))),
    "a word": Fault(sends(data('"error"'))),
    "choices a dict": Fault(sends(data({"choices": {"text": "x"}}))),
    "choices a word": Fault(sends(data({"choices": "text"}))),
    "a choice that is a number": Fault(sends(data({"choices": [3]}))),
    "a numeric text": Fault(sends(choice(text=3))),
    "a text of zero": Fault(sends(choice(text=0))),
    "a text that is a list": Fault(sends(choice(text=["x"]))),
    "ids that are words": Fault(sends(choice(token_ids=["x"]))),
    "ids that are fractions": Fault(sends(choice(token_ids=[128266.5]))),
    "ids that are infinite": Fault(sends(data('{"choices": [{"token_ids": [1e999]}]}'))),
    "ids that are huge": Fault(sends(choice(token_ids=[10**30]))),
    "ids that are negative": Fault(sends(choice(token_ids=[-1]))),
    "ids that are true": Fault(sends(choice(token_ids=[True]))),
    "ids in a word": Fault(sends(choice(token_ids="128266"))),
    "text in usage": Fault(
        sends(
            *some_frames(),
            data({"choices": [{"text": "", "finish_reason": "stop"}], "usage": {"prompt_tokens": "many"}}),
        )
    ),
    "usage a word": Fault(
        sends(*some_frames(), data({"choices": [{"text": "", "finish_reason": "stop"}], "usage": "many"}))
    ),
    "usage infinite": Fault(
        sends(data('{"choices": [{"text": "", "finish_reason": "stop"}], "usage": {"prompt_tokens": 1e999}}'))
    ),
    "bytes that are not UTF-8": Fault(lambda peer: _bytes(peer, b"data: \xff\xfe\xfa\n\n")),
    "NUL bytes": Fault(lambda peer: _bytes(peer, b"data: \0\0\0\n\n")),
    "bad gzip": Fault(_bad_gzip),
    "garbage between chunks": Fault(_chunk_of_garbage),
    "a proxy's page": Fault(_page),
    "too many headers": Fault(_many_headers),
    "no HTTP": Fault(lambda peer: peer.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
    "closes at once": Fault(lambda peer: peer.raw(b"")),
    "cut off, HTTP/1.0 without a length": Fault(_without_length),
    "codes that no codec has": Fault(
        sends(*[event(token_text(28682 + n)) for n in range(20)], choice(finish_reason="stop")), (500,)
    ),
    "slots in the wrong order": Fault(
        sends(
            *[event("".join(token_text(number_of(slot, 1)) for slot in range(6, -1, -1))) for _ in range(20)],
            choice(finish_reason="stop"),
        ),
        (500,),
    ),
}

ERRORS: dict[str, str | bytes] = {
    "deep": DEEP,
    "a list": '{"error": ["no"]}',
    "null": '{"error": null}',
    "a number": "5",
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "a page": "<html>nginx at tier1.internal</html>",
    "a dict in a message": '{"error": {"message": {"a": 1}}}',
}

REFUSALS = (
    {
        f"answers {status}": Fault(refuses(status), expected)
        for status, expected in {
            204: (502,),
            206: (502,),
            301: (502,),
            303: (502,),
            307: (502,),
            304: (502,),
            400: (400,),
            401: (502,),
            403: (502,),
            404: (502,),
            418: (502,),
            422: (400,),
            429: (429,),
            500: (502,),
            502: (502,),
            503: (503,),
            599: (502,),
        }.items()
    }
    | {
        f"429 with Retry-After: {name}": Fault(refuses(429, b"{}", f"Retry-After: {value}"), (429,))
        for name, value in {
            "²": "²",
            "5,000 digits": "9" * 5000,
            "negative": "-5",
            "a fraction": "1.5",
            "a date": formatdate(time.time() + 30, usegmt=True),
            "a date in the past": formatdate(0, usegmt=True),
            "a broken date": "Wed, 99 Foo 99999 99:99:99 GMT",
            "empty": "",
            "a word": "soon",
            "infinity": "inf",
            "not a number": "nan",
            "other digits": "١٢",
        }.items()
    }
    | {f"an error that is {name}": Fault(refuses(500, body)) for name, body in ERRORS.items()}
)

FAULTS: dict[str, Fault] = ENDS | HANGS | NONSENSE | REFUSALS


async def _bytes(peer: Peer, body: bytes) -> None:
    await peer.head()
    await peer.chunk(body)
    await peer.end()


def numbered(number: int) -> str:
    """A sentence to be spoken, for which a BrokenTier1 plays the fault of that number."""
    return f"Sentence {number} is spoken here."


_NUMBER = re.compile(r"Sentence (\d+)")


class BrokenTier1:
    """Set `fault` before each request, or `faults` for many at once, each chosen by a `numbered` sentence.

    `open` counts the connections that were not closed yet.
    """

    def __init__(self) -> None:
        self.fault = Fault(sends(*whole()))
        self.faults: Sequence[Fault] = ()
        self.health: Play = refuses(200, b"{}")
        self.heads: list[str] = []  # of the requests, in lower case
        self.bodies: list[str] = []
        self.open = 0
        self.url = ""

    def _fault_for(self, body: str) -> Fault:
        named = _NUMBER.search(body) if self.faults else None
        return self.faults[int(named[1])] if named else self.fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._play(reader, Peer(writer))
        finally:
            self.open -= 1
            writer.close()

    async def _play(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = next((int(line[15:]) for line in head.splitlines() if line.startswith("content-length:")), 0)
        body = (await reader.readexactly(size)).decode()
        play = self._fault_for(body).play if head.startswith("post") else self.health
        self.heads.append(head)
        self.bodies.append(body)
        playing = asyncio.ensure_future(play(peer))
        leaving = asyncio.ensure_future(reader.read())  # a client that goes away ends the performance
        try:
            await asyncio.wait([playing, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)

    @contextlib.contextmanager
    def served(self) -> Iterator[BrokenTier1]:
        """In a thread of its own."""
        loop = asyncio.new_event_loop()
        started = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            started.set()
            await self._ended.wait()
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)

        self._ended = asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=[serve()], name="broken-tier-1")
        thread.start()
        started.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(self._ended.set)
            thread.join(10)
            loop.close()
