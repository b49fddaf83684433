from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus.errors import UpstreamError
from orpheus.http.sse import EventParser, iter_events

LINE_ENDS = ("\n", "\r\n", "\r")
LINES = st.sampled_from(["data: one", "data:two", "data: ", ": a comment", "id: 3", "event: x", ""])


def in_parts(stream: bytes, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    parts = [stream[left:right] for left, right in itertools.pairwise(edges)]
    return list(iter_events(part for part in parts if part))


@given(st.lists(LINES, max_size=12), st.sampled_from(LINE_ENDS), st.lists(st.integers(0, 200), max_size=6))
def test_however_a_stream_is_cut_its_events_are_the_same(lines: list[str], end: str, cuts: list[int]) -> None:
    stream = "".join(line + end for line in lines).encode()
    byte_by_byte = in_parts(stream, list(range(len(stream))))
    assert in_parts(stream, cuts) == in_parts(stream, []) == byte_by_byte


@pytest.mark.parametrize("end", LINE_ENDS)
def test_an_event_that_comes_alone_and_whole_is_read_like_any_other(end: str) -> None:
    for text in ("data: a b" + end * 2, f"data: a{end}data: b" + end * 2, f": no{end}data: c" + end * 2):
        parser = EventParser()
        alone = [event for _ in range(3) for event in parser.parse(text.encode())]
        assert alone == list(iter_events([(text * 3).encode()]))
        assert len(alone) == 3


def test_an_event_that_follows_half_of_another_belongs_to_it() -> None:
    parser = EventParser()
    assert list(parser.parse(b"data: on")) == []
    assert list(parser.parse(b"data: e\n\n")) == ["ondata: e"]
    assert list(parser.parse(b"data: one\n")) == []
    assert list(parser.parse(b"data: two\n\n")) == ["one\ntwo"]


def test_an_event_that_comes_whole_and_is_too_long_is_refused() -> None:
    with pytest.raises(UpstreamError):
        list(EventParser(max_bytes=100).parse(b"data: " + b"x" * 200 + b"\n\n"))


def test_bytes_that_are_not_utf_8_do_not_end_the_stream() -> None:
    assert list(EventParser().parse(b"data: \xff!\n\n")) == ["�!"]
