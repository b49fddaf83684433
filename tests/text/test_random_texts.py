"""Random texts in every script we name, with abbreviations, punctuation and markup: no letter of them is lost."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from itertools import pairwise, takewhile
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest
from orpheus.text import StreamingSegmenter, entities, numbers, scripts, segment_text
from tests.support.virtual_time import VirtualTimeLoop

WORDS = [
    "word", "house", "Then", "The", "went", "Monday", "He", "über", "straße", "été", "niño", "città", "Привет", "слово",
    "你好", "世界", "今天天气很好", "안녕하세요", "저는", "नमस्ते", "दुनिया", "कि", "שלום", "مرحبا", "สวัสดี", "こんにちは", "x", "A", "I",
    "42", "3.50", "1990", "3,497", "9:30", "v2.0", "Node.js", "O'Neil", "don't", "re-do",
]  # fmt: skip
ABBREVIATIONS = [
    "Mr.", "Ms.", "Dr.", "a.m.", "p.m.", "e.g.", "etc.", "No.", "vol.", "St.", "Ltd.", "Inc.", "Jr.", "Ph.D.", "U.S.", "J.", "R.",
    "z. B.", "d. h.", "Nr.", "usw.", "3.", "Mme.", "M.", "p. ex.", "Sr.", "Ud.", "EE. UU.", "Sig.", "ecc.", "डॉ.", "Jan.", "Wed.",
]  # fmt: skip
MARKS = [*".!?…,;:\"'()“”«»「」。，？।、", "...", "?!", " - ", " — ", "\n", "\n\n", "  "]
MARKUP = [
    "**bold**",
    "*so*",
    "`code`",
    "# ",
    "- ",
    "~~no~~",
    "🙂",
    "<laugh>",
    "<b>",
    "</b>",
    "&amp;",
    "> ",
    "_it_",
]
PART = st.one_of(*(st.sampled_from(parts) for parts in (WORDS, WORDS, WORDS, ABBREVIATIONS, MARKS, MARKUP)))
TEXT = st.lists(st.tuples(PART, st.sampled_from([" ", " ", " ", ""])), min_size=1, max_size=60).map(
    lambda parts: "".join(part + space for part, space in parts)
)
FRAGMENTS = st.lists(st.tuples(st.integers(1, 15), st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.2])), max_size=80)


def letters(text: str) -> Counter[str]:
    return Counter(character for character in re.sub("<[^<>]*>|&amp;", "", text) if character.isalnum())


async def live(
    text: str, language: str, max_chars: int, fragments: list[tuple[int, float]], left_s: float
) -> str:
    segmenter = StreamingSegmenter(language, max_chars, max_chars=100_000)

    async def write() -> None:
        ends = takewhile(
            lambda end: end < len(text), (sum(n for n, _ in fragments[:i]) for i in range(len(fragments)))
        )
        for (start, end), (_, pause_s) in zip(pairwise(ends), fragments, strict=False):
            segmenter.push(text[start:end])
            await asyncio.sleep(pause_s)
        segmenter.push(text[segmenter.chars :])
        segmenter.end()

    writing = asyncio.create_task(write())
    found = []
    try:
        while segment := await segmenter.next(lambda: left_s):
            found.append(segment.text)
    except BadRequest:
        pass
    await writing
    assert "".join(span.text for span in segmenter.spans) + segmenter.unsaid == entities.decode(text)
    return "".join(found)


@settings(max_examples=150, deadline=None)
@given(
    TEXT, st.sampled_from(["en", "fr", "de", "es", "it", "ko", "hi", "zh"]), st.sampled_from([60, 110, 280]), FRAGMENTS,
    st.sampled_from([0.0, 0.7, 9.0]),
)  # fmt: skip
def test_no_letter_is_lost_at_once_or_live(
    text: str, language: str, max_chars: int, fragments: list[tuple[int, float]], left_s: float
) -> None:
    with (
        patch.object(numbers, "verbalize", lambda text, language: text),  # of a number that stands alone
        patch.object(scripts, "leave_out", lambda text, language: (text, 0)),
    ):
        try:
            at_once = "".join(part.text for part in segment_text(text, language, max_chars).segments)
        except BadRequest:
            at_once = ""
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            written = runner.run(live(text, language, max_chars, fragments, left_s))
    assert not letters(text) - letters(at_once)
    assert letters(written) == letters(at_once)
