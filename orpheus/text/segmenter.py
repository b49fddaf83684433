"""A complete text → segments, each short enough for one generation, and the pause after each in milliseconds.

`_clean` decides what is read aloud, with the modules beside this one. The rest packs sentences into segments: a short
first one so that audio starts early, then as many whole sentences as fit.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orpheus.errors import BadRequest
from orpheus.prompt import strip_control
from orpheus.text import addresses, characters, markup, numbers, scripts, tags
from orpheus.text.sentences import MIN_CHARS, early_clause_end, length, split_long, split_sentences

LONG_FIRST_CHARS = 100  # a first sentence longer than this (7 s of speech) is split after an early clause

PAUSE_MS = {",": 120, ".": 250, "!": 250, "?": 300}
LINE_PAUSE_MS = 300  # the least after a list item or a line of a poem
PARAGRAPH_PAUSE_MS = 500

_MARKS = {".": ".。．।॥۔", "!": "!！", "?": "?？؟", ",": ",;:-)]、，；：،"}
_PAUSES_MS = {mark: PAUSE_MS[kind] for kind, marks in _MARKS.items() for mark in marks}
_CLOSING = "\"')]」』"
_TERMINATORS = (*_MARKS["."], *_MARKS["!"], *_MARKS["?"], *_CLOSING)
_REPEATED_MARKS = re.compile(r"([?!？！])[?!？！]+|([,;:])\2+")  # "!!!" breaks the model (Orpheus-TTS #79)
_DOTS, _DASHES = re.compile(r"\.{4,}"), re.compile(r"-{2,}")
_SPEAKABLE = re.compile(rf"[^\W_]|{tags.PLACEHOLDER}")
_SPACES = re.compile(r" {2,}")
_FULL_STOPS = {"\u0900": "।", "\u3040": "。"}  # first character of a script → its full stop


@dataclass(eq=False)
class Segment:
    """A part of the text that is generated in one go, and the result.

    The text is cut here; the pipeline fills in the counts while it is spoken, in samples at the codec's rate.
    """

    text: str
    pause_ms: int  # silence after it; 0 after the last
    start: int | None = None  # its first sample within the utterance, once it is sent
    samples: int = 0  # generated so far, its pause included
    pause_samples: int = 0  # silence at its end, once it is complete
    complete: bool = False

    @property
    def ends_sentence(self) -> bool:
        """Whether it ends where a sentence does, by the pause after it."""
        return self.pause_ms >= PAUSE_MS["."]


@dataclass(frozen=True)
class SegmentedText:
    """A complete text in segments, to be spoken once: the segments record their own results."""

    segments: tuple[Segment, ...]  # none if there was nothing to say
    removed_tags: int  # <tags> that the model does not know
    left_out_chars: int = 0  # letters that the model cannot speak

    def source(self) -> SegmentSource:
        """The segments, one after another."""
        return _CompleteSource(self)


class SegmentSource(Protocol):
    """Segments to speak, in order: of a complete text, or of one that is still being written."""

    @property
    def removed_tags(self) -> int: ...

    @property
    def left_out_chars(self) -> int: ...

    @property
    def exhausted(self) -> bool:
        """Whether no segment follows those returned so far."""

    async def next(self, buffered_s: Callable[[], float]) -> Segment | None:
        """Wait for the next segment; None after the last.

        `buffered_s` returns how many seconds of audio the listener still has to hear.
        """


class _CompleteSource:
    def __init__(self, text: SegmentedText) -> None:
        self.removed_tags = text.removed_tags
        self.left_out_chars = text.left_out_chars
        self._left = deque(text.segments)

    @property
    def exhausted(self) -> bool:
        return not self._left

    async def next(self, buffered_s: Callable[[], float]) -> Segment | None:
        return self._left.popleft() if self._left else None


class _Part(NamedTuple):
    text: str
    space: str  # between it and the next
    pause_ms: int
    ends_paragraph: bool


def segment_text(
    text: str, language: str, max_chars: int, *, join_chars: int | None = None, normalize: bool = False
) -> SegmentedText:
    """Split `text` into one or more segments of at most `max_chars` (by `length`).

    Sentences share a segment up to `join_chars` (default: as many as fit). `normalize` verbalizes numbers.
    Raises BadRequest if the text contains nothing to say, or nothing that a model of `language` can speak.
    """
    segmented = segment_any(text, language, max_chars, join_chars=join_chars, normalize=normalize)
    if segmented.segments:
        return segmented
    if segmented.left_out_chars:
        raise scripts.unspeakable(text, language)
    raise BadRequest("input has nothing to say: send some words.", param="input", code="empty_input")


def segment_any(
    text: str, language: str, max_chars: int, *, join_chars: int | None = None, normalize: bool = False
) -> SegmentedText:
    """The same, without segments instead of an error if there is nothing to say."""
    text, removed_tags, left_out_chars = _clean(text, language, normalize)
    join_chars = max_chars if join_chars is None else min(join_chars, max_chars)
    # One character less: `_terminate` may add a full stop.
    packed = _pack(_parts(text, language, max_chars - 1), max_chars - 1, join_chars - 1)
    parts = [part for part in packed if _SPEAKABLE.search(part.text)]
    last = len(parts) - 1
    return SegmentedText(
        tuple(
            Segment(tags.from_placeholders(_terminate(part.text)), part.pause_ms if index < last else 0)
            for index, part in enumerate(parts)
        ),
        removed_tags,
        left_out_chars,
    )


def _clean(text: str, language: str, normalize: bool) -> tuple[str, int, int]:
    """What is read aloud, one block per line, an empty line between paragraphs; tags removed, letters left out."""
    text = strip_control(characters.normalize(text))
    text = addresses.verbalize(markup.strip_blocks(text), language)
    text, removed_tags = tags.to_placeholders(markup.strip_inline(text), language)
    text, left_out_chars = scripts.leave_out(text, language)
    if normalize:
        text = numbers.verbalize(text, language)
    # Once more: removing what stood between its letters may have completed a control string.
    text = _REPEATED_MARKS.sub(_one_mark, strip_control(text))
    text = _DASHES.sub(" - ", _DOTS.sub("...", text))
    return _SPACES.sub(" ", text), removed_tags, left_out_chars


def _one_mark(marks: re.Match[str]) -> str:
    """A question mark if there is one among them, else the first."""
    return next((mark for mark in marks[0] if mark in "?？"), marks[0][0])


def _parts(text: str, language: str, max_chars: int) -> Iterator[_Part]:
    """The sentences of all blocks, the long ones in several parts."""
    lines = [line.strip() for line in text.split("\n")]
    first = True
    for index, block in enumerate(lines):
        if not block:
            continue
        ends_paragraph = index + 1 == len(lines) or not lines[index + 1]
        *sentences, last = split_sentences(block, language)
        for sentence in sentences:
            yield from _sentence_parts(sentence, max_chars, first)
            first = False
        *parts, end = _sentence_parts(last, max_chars, first)
        yield from parts
        pause = PARAGRAPH_PAUSE_MS if ends_paragraph else max(LINE_PAUSE_MS, end.pause_ms)
        yield _Part(_terminate(end.text), " ", pause, ends_paragraph)
        first = False


def _sentence_parts(sentence: str, max_chars: int, first: bool) -> Iterator[_Part]:
    start = early_clause_end(sentence) if first and length(sentence) > LONG_FIRST_CHARS else 0
    for clause in (sentence[:start], sentence[start:]):
        for part in split_long(clause, max_chars) if clause else ():
            text = part.strip()
            yield _Part(text, " " * part[-1:].isspace(), pause_ms(text), False)


def _pack(parts: Iterable[_Part], max_chars: int, join_chars: int) -> list[_Part]:
    """Join neighbours of a paragraph while they fit. The first stays alone: audio starts with it."""
    packed: list[_Part] = []
    for part in parts:
        if not packed:
            packed.append(part)
            continue
        last = packed[-1]
        complete = length(last.text) >= MIN_CHARS and _SPEAKABLE.search(last.text)
        separate = len(packed) == 1 or last.ends_paragraph
        if complete and separate and _SPEAKABLE.search(part.text):
            packed.append(part)
        else:
            joined = _joined(last, part)
            if length(joined.text) <= (join_chars if complete else max_chars):
                packed[-1] = joined
            elif complete:
                packed.append(part)
            else:
                packed[-1:] = _resplit(joined, max_chars)
    if len(packed) > 1 and length(packed[-1].text) < MIN_CHARS:
        packed[-2:] = _resplit(_joined(packed[-2], packed[-1]), max_chars)
    return packed


def _joined(left: _Part, right: _Part) -> _Part:
    return right._replace(text=left.text + left.space + right.text)


def _resplit(part: _Part, max_chars: int) -> Iterator[_Part]:
    *parts, end = _sentence_parts(part.text, max_chars, first=False)
    yield from parts
    yield part._replace(text=end.text)


def pause_ms(text: str) -> int:
    """The pause after `text` in milliseconds, by its last punctuation mark; 0 if it ends within a clause."""
    text = text.rstrip()
    inner = text.rstrip(_CLOSING) if text.endswith(tuple(_CLOSING)) else text
    return _PAUSES_MS.get(inner[-1:], 0) or _PAUSES_MS.get(text[-1:], 0)


def _terminate(text: str) -> str:
    """Add a full stop if the text lacks one: without it the model repeats itself."""
    if text.endswith(_TERMINATORS) or tags.is_placeholder(text[-1:]):
        return text
    text = text.rstrip(",;:- 、，；：،")
    full_stop = "."
    for first, candidate in _FULL_STOPS.items():
        if text[-1:] >= first and (candidate != "।" or text[-1:] < "\u0980"):
            full_stop = candidate
    return text + full_stop
