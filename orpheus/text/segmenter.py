"""A complete text → segments, each short enough for one generation, and the pause after each in milliseconds.

`_clean` decides what is read aloud, with the modules beside this one. The rest packs sentences into segments: a short
first one so that audio starts early, then as many whole sentences as fit.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from orpheus.errors import BadRequest
from orpheus.prompt import strip_control
from orpheus.text import (
    addresses,
    characters,
    citations,
    elements,
    entities,
    markup,
    math,
    numbers,
    pauses,
    scripts,
)
from orpheus.text.incoming import IncomingText
from orpheus.text.sentences import (
    CLOSING,
    CONTEXT_CHARS,
    MIN_CHARS,
    early_clause_end,
    ends_sentence,
    length,
    split_long,
    split_sentences,
)
from orpheus.text.tags import PLACEHOLDER, from_placeholders, is_placeholder, to_placeholders
from orpheus.voices import TAGS

LONG_FIRST_CHARS = 100  # a first sentence longer than this (7 s of speech) is split after an early clause

PAUSE_MS = {",": 120, ".": 250, "!": 250, "?": 300}
LINE_PAUSE_MS = 300  # the least after a list item or a line of a poem
PARAGRAPH_PAUSE_MS = 500

_MARKS = {".": ".…。．｡।॥۔։።။។៕།༎", "!": "!！", "?": "?？؟", ",": ",;:-)]、，；：،؛፣፤፥၊"}
_PAUSES_MS = {mark: PAUSE_MS[kind] for kind, marks in _MARKS.items() for mark in marks}
_STOPS = (*_MARKS["."], *_MARKS["!"], *_MARKS["?"])
# "!!!" breaks the model (Orpheus-TTS #79)
_REPEATED_MARKS = re.compile(r"[?!？！](?:[?!？！]|\.(?!\.))+|([,;:])\1+")
_DOTS, _DASHES = re.compile(r"\.{4,}"), re.compile(r"-{2,}")
_SPEAKABLE = re.compile(rf"[^\W_]|{PLACEHOLDER}")
_LETTER = re.compile(r"[^\W\d_]")
_SPACES = re.compile(r" {2,}")
_FULL_STOP_AFTER = tuple(
    (re.compile(f"[{letters}]"), stop)
    for letters, stop in (
        ("\u0900-\u097f\u0980-\u0a7f\u0b00-\u0b7f", "।"),  # Devanagari, Bengali, Gurmukhi, Odia
        ("\u3040-\u9fff", "。"),
        ("\u0530-\u058f", "։"),  # Armenian
        ("\u0f00-\u0fff", "།"),  # Tibetan
        ("\u1000-\u109f", "။"),  # Burmese
        ("\u1200-\u137f", "።"),  # Ethiopic
        ("\u1780-\u17ff", "។"),  # Khmer
    )
)


@dataclass(eq=False)
class Segment:
    """A part of the text that is generated in one go, and the result; without text, a pause that was asked for.

    The text is cut here; the pipeline fills in the counts while it is spoken, in samples at the codec's rate.
    """

    text: str
    pause_ms: int  # silence after it; 0 after the last, and before a pause that the text asks for
    ends_sentence: bool = True
    start: int | None = None  # its first sample within the utterance, once it is sent
    samples: int = 0  # generated so far, its pause included
    pause_samples: int = 0  # silence at its end, once it is complete
    complete: bool = False


@dataclass(frozen=True)
class SegmentedText:
    """A complete text in segments, to be spoken once: the segments record their own results."""

    segments: tuple[Segment, ...]  # none with words if there was nothing to say
    removed_tags: int  # <tags> that the model does not know, and marks that hide what is not spoken
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
    text: str,
    language: str,
    max_chars: int,
    *,
    tags: tuple[str, ...] | None = None,
    join_chars: int | None = None,
    normalize: bool = False,
    skip_directions: bool = False,
) -> SegmentedText:
    """Split `text` into one or more segments of at most `max_chars` (by `length`).

    `tags` are those that the voice knows (default: those published for the language). Sentences share a segment up to `join_chars` (default: as many as fit). `normalize` verbalizes numbers,
    `skip_directions` leaves out stage directions. Raises BadRequest if the text contains nothing to say, or nothing that
    a model of `language` can speak.
    """
    incoming = IncomingText(skip_directions=skip_directions)
    text = entities.decode(text)
    spoken = incoming.end(incoming.append("", text))
    segmented = segment_spoken(
        spoken, language, max_chars, tags=tags, join_chars=join_chars, normalize=normalize
    )
    if not any(segment.text for segment in segmented.segments):
        if segmented.left_out_chars:
            raise scripts.unspeakable(text, language)
        raise BadRequest("input has nothing to say: send some words.", param="input", code="empty_input")
    return replace(segmented, removed_tags=segmented.removed_tags + incoming.removed_tags)


def segment_spoken(
    text: str,
    language: str,
    max_chars: int,
    *,
    tags: tuple[str, ...] | None = None,
    join_chars: int | None = None,
    normalize: bool = False,
) -> SegmentedText:
    """The same of what an IncomingText let through, its entities decoded; without words instead of an error if there is nothing to say."""
    join_chars = max_chars if join_chars is None else min(join_chars, max_chars)
    tags = TAGS.get(language, ()) if tags is None else tags
    segments: list[Segment] = []
    removed_tags = left_out_chars = 0
    for part, silence_ms in pauses.split(text):
        said, removed, left_out = _segment_part(part, language, tags, max_chars, join_chars, normalize)
        removed_tags += removed
        left_out_chars += left_out
        segments += said
        if silence_ms and segments and not segments[-1].text:
            segments[-1].pause_ms = min(segments[-1].pause_ms + silence_ms, pauses.MAX_PAUSE_MS)
        elif silence_ms:
            segments.append(Segment("", silence_ms))
    return SegmentedText(tuple(segments), removed_tags, left_out_chars)


def _segment_part(
    text: str, language: str, tags: tuple[str, ...], max_chars: int, join_chars: int, normalize: bool
) -> tuple[list[Segment], int, int]:
    """The segments of a text without pauses, none if nothing in it can be said; tags removed, letters left out."""
    text, removed_tags, left_out_chars = _clean(text, language, tags)
    # One character less: `_terminate` may add a full stop.
    packed = _pack(_parts(text, language, max_chars - 1), language, max_chars - 1, join_chars - 1)
    spoken = (part for part in packed if _SPEAKABLE.search(part.text))
    parts = [read for part in spoken for read in _read_numbers(part, language, max_chars - 1, normalize)]
    last = len(parts) - 1
    return (
        [
            Segment(
                from_placeholders(_terminate(part.text), tags),
                part.pause_ms if index < last else 0,
                (part.pause_ms if index < last else pause_ms(text, "", language)) >= PAUSE_MS["."],
            )
            for index, part in enumerate(parts)
        ],
        removed_tags,
        left_out_chars,
    )


def _clean(text: str, language: str, tags: tuple[str, ...]) -> tuple[str, int, int]:
    """What is read aloud, one block per line, an empty line between paragraphs; tags removed, letters left out."""
    text = strip_control(characters.normalize(citations.strip_references(text)))
    # Before their backslashes, underscores and signs are taken for markup.
    text = math.read_formulas(text, language)
    text, removed_elements = elements.strip(text)
    text = addresses.verbalize(markup.strip_blocks(text), language)
    text, removed_tags = to_placeholders(markup.strip_inline(text), tags)
    text, left_out_chars = scripts.leave_out(text, language)
    # Once more: removing what stood between its letters may have completed a control string.
    text = _REPEATED_MARKS.sub(_one_mark, strip_control(text))
    text = _DASHES.sub(" - ", _DOTS.sub("...", text))
    return _SPACES.sub(" ", text), removed_elements + removed_tags, left_out_chars


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
        start = 0
        for sentence in split_sentences(block, language):
            start += len(sentence)
            *parts, end = _sentence_parts(
                sentence, block[start : start + CONTEXT_CHARS], language, max_chars, first
            )
            first = False
            yield from parts
            if start < len(block):
                yield end
        pause = PARAGRAPH_PAUSE_MS if ends_paragraph else max(LINE_PAUSE_MS, end.pause_ms)
        yield _Part(_terminate(end.text), " ", pause, ends_paragraph)


def _sentence_parts(
    sentence: str, following: str, language: str, max_chars: int, first: bool
) -> Iterator[_Part]:
    start = early_clause_end(sentence, language) if first and length(sentence) > LONG_FIRST_CHARS else 0
    end = 0
    for clause in (sentence[:start], sentence[start:]):
        for part in split_long(clause, max_chars, language) if clause else ():
            end += len(part)
            text, rest = part.strip(), sentence[end : end + CONTEXT_CHARS] + following
            yield _Part(text, " " * part[-1:].isspace(), pause_ms(text, rest, language), False)


def _read_numbers(part: _Part, language: str, max_chars: int, normalize: bool) -> Iterator[_Part]:
    """`part` with its numbers in words, in several parts if it gets too long.

    Where it is not asked for, only a number that stands alone: the embedded voice says "12" twice, but "twelve" once.
    """
    if not normalize and _LETTER.search(part.text):
        yield part
        return
    words = numbers.verbalize(part.text, language)
    if (chars := length(words)) <= max_chars:
        yield part._replace(text=words)
        return
    # Cut as written, so that no number is cut inside.
    fitting = max(MIN_CHARS // 2, length(part.text) * max_chars // chars)
    *parts, end = _sentence_parts(part.text, "", language, fitting, first=False)
    if not parts:  # a single number that is longer than a segment
        *parts, end = _sentence_parts(words, "", language, max_chars, first=False)
        yield from parts
        yield part._replace(text=end.text)
        return
    for one in (*parts, part._replace(text=end.text)):
        yield from _read_numbers(one, language, max_chars, normalize)


def _pack(parts: Iterable[_Part], language: str, max_chars: int, join_chars: int) -> list[_Part]:
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
                packed[-1:] = _resplit(joined, language, max_chars)
    if len(packed) > 1 and length(packed[-1].text) < MIN_CHARS:
        packed[-2:] = _resplit(_joined(packed[-2], packed[-1]), language, max_chars)
    return packed


def _joined(left: _Part, right: _Part) -> _Part:
    return right._replace(text=left.text + left.space + right.text)


def _resplit(part: _Part, language: str, max_chars: int) -> Iterator[_Part]:
    *parts, end = _sentence_parts(part.text, "", language, max_chars, first=False)
    yield from parts
    yield part._replace(text=end.text)


def pause_ms(text: str, following: str, language: str) -> int:
    """The pause between `text` and `following` in milliseconds, by the last punctuation mark before it.

    0 within a clause, and after a full stop that ends no sentence ("Ms.").
    """
    text = text.rstrip()
    inner = text.rstrip(CLOSING)
    closing = text[len(inner) :]
    if inner.endswith(".") and not ends_sentence(f"{text} {following.lstrip()}", len(text) + 1, language):
        inner = ""
    return _PAUSES_MS.get(inner[-1:], 0) or _PAUSES_MS.get(closing[-1:], 0)


def _terminate(text: str) -> str:
    """Add a full stop if the text lacks one: without it the model repeats itself."""
    if text.endswith((*_STOPS, *CLOSING)) or is_placeholder(text[-1:]):
        return text
    text = text.rstrip(",;:- 、，；：،؛፣፤፥၊")
    if text.rstrip(CLOSING).endswith(_STOPS):  # "a.m.,"
        return text
    return text + next((stop for letters, stop in _FULL_STOP_AFTER if letters.match(text[-1:])), ".")
