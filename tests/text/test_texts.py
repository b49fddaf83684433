"""The tables in tests/texts: each text is read as its line says, whether it is sent at once or written live.

Where a line is a list, its texts are the sentences, and nothing else ends one.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orpheus.text import Segment, StreamingSegmenter, segment_text
from orpheus.text.sentences import split_sentences

SEGMENT_CHARS = 280
TABLES = sorted((Path(__file__).parents[1] / "texts").glob("*.toml"))


def _read_cases() -> Iterator[Any]:
    for path in TABLES:
        table = tomllib.loads(path.read_text())
        options = {name: table.pop(name) for name in ("normalize", "skip_directions") if name in table}
        for language, texts in table.items():
            for text, read in texts.items():
                yield pytest.param(language, text, read, options, id=f"{path.stem}-{language}-{text[:40]}")


ALL = list(_read_cases())
CASES = [case for case in ALL if isinstance(case.values[2], str)]
LISTS = [case for case in ALL if not isinstance(case.values[2], str)]


@pytest.mark.parametrize(("language", "text", "read", "options"), CASES)
def test_a_text_sent_at_once_is_read_as_its_line_says(
    language: str, text: str, read: str, options: dict[str, bool]
) -> None:
    segmented = segment_text(text, language, SEGMENT_CHARS, **options)
    assert " ".join(segment.text for segment in segmented.segments if segment.text) == read


@pytest.mark.anyio
@pytest.mark.parametrize("fragment_chars", [1, 4, 1000])
@pytest.mark.parametrize(("language", "text", "read", "options"), CASES)
async def test_a_text_written_live_has_the_same_words(
    language: str, text: str, read: str, options: dict[str, bool], fragment_chars: int
) -> None:
    segmenter = StreamingSegmenter(language, SEGMENT_CHARS, max_chars=10_000, **options)
    segments = await _written_live(segmenter, text, fragment_chars)
    assert _words(" ".join(segment.text for segment in segments)) == _words(read)


@pytest.mark.parametrize(("language", "text", "sentences", "options"), LISTS)
def test_a_text_has_the_sentences_of_its_list(
    language: str, text: str, sentences: list[str], options: dict[str, bool]
) -> None:
    assert [sentence.strip() for sentence in split_sentences(text, language)] == sentences


@pytest.mark.anyio
@pytest.mark.parametrize("fragment_chars", [1, 4, 1000])
@pytest.mark.parametrize(("language", "text", "sentences", "options"), LISTS)
async def test_a_text_written_live_makes_the_pause_of_a_stop_only_where_its_sentences_end(
    language: str, text: str, sentences: list[str], options: dict[str, bool], fragment_chars: int
) -> None:
    segmenter = StreamingSegmenter(language, SEGMENT_CHARS, max_chars=10_000, **options)
    segments = await _written_live(segmenter, text, fragment_chars)
    written = ""
    for span, following in pairwise(segmenter.spans):
        written += span.text
        if not any(written.strip().endswith(sentence) for sentence in sentences):
            assert not written.strip().endswith(".")
            assert segments[following.first - 1].pause_ms < 250


async def _written_live(segmenter: StreamingSegmenter, text: str, fragment_chars: int) -> list[Segment]:
    """The segments for a listener who has heard everything so far."""
    segments: list[Segment] = []

    async def speak() -> None:
        while (segment := await segmenter.next(lambda: 0.0)) is not None:
            segments.append(segment)

    speaking = asyncio.create_task(speak())
    for start in range(0, len(text), fragment_chars):
        segmenter.push(text[start : start + fragment_chars])
        await asyncio.sleep(0)
    segmenter.end()
    await speaking
    return segments


def _words(text: str) -> list[str]:
    return re.findall(r"<[^>]+>|[^\W_]+", text)
