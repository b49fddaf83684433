"""What of a text is spoken, however it arrives: reasoning, tool calls, citations and stage directions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest
from orpheus.text import Segment, StreamingSegmenter, segment_text
from orpheus.text.incoming import IncomingText
from tests.support.virtual_time import VirtualTimeLoop

MARKS = [
    "<think>", "</think>", "< THINK x=1>", "<thinking>", "</thinking>", "<tool_call>", "</tool_call>", "<think/>", "<b>",
    "</", "<", ">", "[", "]", "[1]", "[1](https://a.b)", "[citation needed]", "[THINK]", "[/THINK]", "◁think▷", "◁/think▷",
    "<!--", "-->", "<sup>1</sup>", "<sup>", "²", "¹", "†", "【4†a】", "【", "\ue200a\ue201", "<|channel|>", "analysis",
    "final", "<|message|>", "<|end|>", "<|tool_call|>", "<|", "|>", "[pause:1s]", "[pause", ":1s]", "<break time='1s'/>",
    "<break ", "`", "```\n", "\n", "\n\n", " ", ". ", "*", "*a* ", "_b_", "\"", "word", "Word ", "see ", "，", "이", "\U000f0001",
]  # fmt: skip


def spoken(text: str, fragment_chars: int | None = None, **options: bool) -> str:
    incoming, out = IncomingText(**options), ""
    for start in range(0, len(text), fragment_chars or max(1, len(text))):
        out = incoming.append(out, text[start : start + (fragment_chars or len(text))])
    return incoming.end(out)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(MARKS), max_size=30).map("".join), st.integers(1, 7), st.booleans())
@example("a <think> b </think> c </think> d", 1, False)
@example('"<think>" and <think> is', 2, False)
def test_the_same_is_spoken_however_a_text_is_cut(text: str, fragment_chars: int, skip: bool) -> None:
    assert spoken(text, fragment_chars, skip_directions=skip) == spoken(text, skip_directions=skip)


@settings(max_examples=200, deadline=None)
@given(
    st.text(
        st.characters(exclude_categories=["Co", "No", "Cs"], exclude_characters="<[◁†‡⁽【¹²³"), max_size=200
    )
)
def test_a_text_without_marks_is_let_through_as_it_is(text: str) -> None:
    assert spoken(text) == spoken(text, 3) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(MARKS), max_size=30).map("".join))
def test_what_was_let_through_holds_no_reasoning_any_more(text: str) -> None:
    if "`" not in text and "<!--" not in text:
        assert "secret" not in spoken(f"{text}\n<think>secret</think>")


@pytest.mark.parametrize(
    "text",
    [
        "<think>I should be nice.</think>",
        "<think>never closed, but long enough, one would think, to be spoken. And more.",
        "I should be nice.</think>",
        '<tool_call>{"name": "f"}</tool_call>',
        "<!-- x -->",
    ],
)
def test_reasoning_alone_is_nothing_to_say(text: str) -> None:
    with pytest.raises(BadRequest, match="nothing to say"):
        segment_text(text, "en", 280)


def test_marks_that_were_dropped_are_counted() -> None:
    assert segment_text("<think>a</think>Hello.<tool_call>b</tool_call> <happy>", "en", 280).removed_tags == 3


def test_two_stars_are_read_unless_a_request_says_otherwise() -> None:
    text = "*Holds out hand* Nice to meet you."
    assert segment_text(text, "en", 280).segments[0].text == "Holds out hand Nice to meet you."
    assert segment_text(text, "en", 280, skip_directions=True).segments[0].text == "Nice to meet you."


def test_a_citation_leaves_the_pause_of_its_sentence() -> None:
    text = "It is the capital of France.[1] It has two million people.[2]"
    assert [segment.pause_ms for segment in segment_text(text, "en", 30).segments] == [250, 0]


UNITS = {
    "open": "<think>", "begun": "<think ", "closed": "a</think>", "comments": "<!--", "mentions": "a <think> b ",
    "quoted": '"<think>" ', "headers": "<|channel|>", "cited": "[1]", "listed": "[1],", "linked": "[1](http://",
    "raised": "<sup>1</sup>", "notes": "a¹", "sources": "【4†", "private": "\ue200", "pauses": "[pause:1s]",
    "breaks": "<break ", "directions": "*a* ", "stars": "*a", "items": "<li>a", "cells": "<td>a", "paragraphs": "\n<p>",
    "aliases": "<sub alias='a'>", "brackets": "[[", "triangles": "◁",
}  # fmt: skip


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
def test_no_marks_take_quadratic_time(unit: str) -> None:
    """In CPU time: a tenth of this, or minutes where it is quadratic."""
    text = unit * (100_000 // len(unit))
    start_s = time.process_time()
    with contextlib.suppress(BadRequest):
        segment_text(text, "en", 110, skip_directions=True)
    spoken(text[:20_000], 1, skip_directions=True)
    assert time.process_time() - start_s < 10


class TestWhileItIsWritten:
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return "asyncio", {"loop_factory": VirtualTimeLoop}

    @staticmethod
    async def next_segment(text: StreamingSegmenter, within_s: float) -> Segment:
        segment = await asyncio.wait_for(text.next(lambda: 0.0), within_s)
        assert segment is not None
        return segment

    async def test_nothing_of_open_reasoning_is_spoken_however_long_it_lasts(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384)
        text.push("<think>")
        for _ in range(100):
            text.push("I should really be nice to them. Should I not? ")
            await asyncio.sleep(0.3)
        with pytest.raises(TimeoutError):
            await self.next_segment(text, 60)
        text.push("</think>Hello there, my friend. How are")
        assert (await self.next_segment(text, 0.01)).text == "Hello there, my friend."

    @pytest.mark.parametrize(
        "mark", ["<think>", "<tool_call>", "[THINK]", "◁think▷", "<|tool_call|>", "<!--"]
    )
    async def test_what_comes_before_is_spoken_at_once_although_the_writer_goes_on(self, mark: str) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384)
        text.push(f"Let me look that up. {mark}a")
        assert (await self.next_segment(text, 0.01)).text == "Let me look that up."
        text.push("bc, def. Ghi, jkl. ")
        text.end()
        assert await text.next(lambda: 0.0) is None

    async def test_reasoning_whose_beginning_was_not_marked_is_dropped_while_it_can_be(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384)
        text.push("I should be nice")
        text.push(".</think>Hello there.")
        text.end()
        assert (await self.next_segment(text, 0.01)).text == "Hello there."
        assert await text.next(lambda: 0.0) is None

    async def test_words_of_reasoning_do_not_count_among_the_words_received(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384)
        for word in ("Hello", "<think>be", ",", "nice</think>", "there", ",", "friend."):
            text.push_word(word)
        text.end()
        assert (await self.next_segment(text, 0.01)).text == "Hello there, friend."
        assert "".join(span.text for span in text.spans).split() == ["Hello", "there,", "friend."]

    async def test_the_pause_after_a_cited_sentence_is_that_of_its_full_stop(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384)
        for piece in ("It is the capital of France.", "[", "1", "]", " It has"):
            text.push(piece)
        segment = await self.next_segment(text, 0.5)
        assert (segment.text, segment.pause_ms) == ("It is the capital of France.", 250)

    async def test_a_block_element_ends_a_sentence_while_it_is_written(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384)
        text.push("<h2>The very first chapter</h2><p>It was dark")
        segment = await self.next_segment(text, 0.01)
        assert (segment.text, segment.pause_ms) == ("The very first chapter.", 500)

    async def test_a_stage_direction_is_held_back_until_it_is_known_to_be_one(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=16_384, skip_directions=True)
        for character in "Hello there, you. *Holds out a hand, slowly* Nice to meet you.":
            text.push(character)
            await asyncio.sleep(0.01)
        text.end()
        found = []
        while (segment := await text.next(lambda: 0.0)) is not None:
            found.append(segment.text)
        assert " ".join(found) == "Hello there, you. Nice to meet you."
