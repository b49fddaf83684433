"""Bytes of a server-sent event stream, cut anywhere → the data of its events, with bounds that hold whatever is sent.

Reads what the HTML standard describes: lines that end in LF, CR or both, comments, several data lines to an event, a
byte order mark, invalid UTF-8. Event names, ids and retry times are ignored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator

from orpheus.errors import UpstreamError

MAX_EVENT_BYTES = 1 << 20  # of its data, and of any one line
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DATA = b"data: "


class EventParser:
    """One stream. What is kept of an event that is not complete never exceeds `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()  # begun, not ended
        self._data: list[bytes] = []  # of the event that is begun
        self._data_bytes = 0
        self._after_cr = False  # the last chunk ended in CR, which may be half of a CRLF
        self._first = True  # no line has ended yet

    def parse(self, chunk: bytes) -> Iterator[str]:
        """The data of the events that `chunk`, at least one byte, completes. UpstreamError if one is too long."""
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        if self._is_one_line(chunk):  # as our tier 1 sends them
            self._first = self._after_cr = False
            yield chunk[len(_DATA) : -2].decode(errors="replace")
            return
        for part in chunk.splitlines(keepends=True):
            self._line += part
            if len(self._line) > self._max_bytes:
                raise self._too_long()
            if part.endswith((b"\n", b"\r")):
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                yield from self._end_line(line)
        self._after_cr = chunk.endswith(b"\r")

    def finish(self) -> Iterator[str]:
        """What the stream ended without the last line end of, if it is an event."""
        line = bytes(self._line)
        self._line.clear()
        yield from self._end_line(line)
        yield from self._end_line(b"")

    def _is_one_line(self, chunk: bytes) -> bool:
        """Whether `chunk` is one whole event with one line of data."""
        return (
            chunk.endswith(b"\n\n")
            and chunk.startswith(_DATA)
            and chunk.index(b"\n") == len(chunk) - 2
            and b"\r" not in chunk
            and not (self._line or self._data)
            and len(chunk) <= self._max_bytes
        )

    def _end_line(self, line: bytes) -> Iterator[str]:
        if self._first:
            line, self._first = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            if self._data:
                yield b"\n".join(self._data).decode(errors="replace")
            self._data.clear()
            self._data_bytes = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_bytes:
                raise self._too_long()

    def _too_long(self) -> UpstreamError:
        return UpstreamError(
            f"An event stream had an event of more than {self._max_bytes} bytes, which no server of ours sends: check "
            "what answers at that address."
        )


async def read_events(chunks: AsyncIterable[bytes], max_bytes: int = MAX_EVENT_BYTES) -> AsyncGenerator[str]:
    """The data of each event of a body."""
    parser = EventParser(max_bytes)
    async for chunk in chunks:
        for data in parser.parse(chunk):
            yield data
    for data in parser.finish():
        yield data


def iter_events(chunks: Iterable[bytes], max_bytes: int = MAX_EVENT_BYTES) -> Iterator[str]:
    """The same, without an event loop."""
    parser = EventParser(max_bytes)
    for chunk in chunks:
        yield from parser.parse(chunk)
    yield from parser.finish()
