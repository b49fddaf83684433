"""The tables in tests/texts: each text is read as its line says, whether it is sent at once or written live."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orpheus.text import StreamingSegmenter, segment_text

SEGMENT_CHARS = 280
TABLES = sorted((Path(__file__).parents[1] / "texts").glob("*.toml"))


def _read_cases() -> Iterator[Any]:
    for path in TABLES:
        table = tomllib.loads(path.read_text())
        options = {name: table.pop(name) for name in ("normalize", "skip_directions") if name in table}
        for language, texts in table.items():
            for text, read in texts.items():
                yield pytest.param(language, text, read, options, id=f"{path.stem}-{language}-{text[:40]}")


CASES = list(_read_cases())


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
    spoken: list[str] = []

    async def speak() -> None:
        while (segment := await segmenter.next(lambda: 0.0)) is not None:
            spoken.append(segment.text)

    speaking = asyncio.create_task(speak())
    for start in range(0, len(text), fragment_chars):
        segmenter.push(text[start : start + fragment_chars])
        await asyncio.sleep(0)
    segmenter.end()
    await speaking
    assert _words(" ".join(spoken)) == _words(read)


def _words(text: str) -> list[str]:
    return re.findall(r"<[^>]+>|[^\W_]+", text)
