"""A request's text → segments, each short enough to be spoken in one go, and the pause after each.

Knows nothing of voices or tokens. What is read of a text is decided by the files beside this one, in the order of
`segments`; what is here is the packing: a short first segment so that sound starts early, then whole sentences.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orpheus.errors import BadRequest
from orpheus.prompt import strip_control
from orpheus.text import addresses, characters, markup, numbers, tags
from orpheus.text.sentences import FEW_CHARS, cut, early_clause, length, sentences

LONG_FIRST_CHARS = 100  # a first sentence of more than this, 7 s of speech, starts with an early clause

PAUSE_MS = {",": 120, ".": 250, "!": 250, "?": 300}
LINE_PAUSE_MS = 300  # at least, after a list item or a line of a poem
PARAGRAPH_PAUSE_MS = 500

_ENDS = {".": ".。．।॥۔", "!": "!！", "?": "?？؟", ",": ",;:-)]、，；：،"}
_PAUSES = {mark: PAUSE_MS[end] for end, marks in _ENDS.items() for mark in marks}
_CLOSING = "\"')]」』"
_FINAL = (*_ENDS["."], *_ENDS["!"], *_ENDS["?"], *_CLOSING)
_REPEATED_MARKS = re.compile(r"([?!？！])[?!？！]+|([,;:])\2+")  # "!!!" breaks the model (Orpheus-TTS #79)
_DOTS, _DASHES = re.compile(r"\.{4,}"), re.compile(r"-{2,}")
_SPEAKABLE = re.compile(rf"[^\W_]|{tags.MARK}")
_SPACES = re.compile(r" {2,}")
_WITHOUT_STOP = {"\u0900": "।", "\u3040": "。"}  # the first character of a script, and its full stop


@dataclass(eq=False)
class Segment:
    """A piece of text that is generated in one go, and what became of it.

    The text is cut here; the counts are filled in while it is spoken, in samples at the codec's rate.
    """

    text: str
    pause_ms: int  # silence after it; 0 after the last
    start: int | None = None  # its first sample within the utterance, once it is sent
    samples: int = 0  # generated so far, its pause included
    pause_samples: int = 0  # silence at its end, once it is complete
    complete: bool = False


@dataclass(frozen=True)
class SegmentedText:
    """A complete text as it will be spoken, once: its segments carry what becomes of them."""

    segments: tuple[Segment, ...]
    removed_tags: int  # <tags> that mean nothing to the voice

    def source(self) -> SegmentSource:
        """Its segments, one after another."""
        return _Complete(self)


class SegmentSource(Protocol):
    """What is to be said, as far as it is known: a complete text, or one that is still being written."""

    @property
    def removed_tags(self) -> int: ...

    @property
    def exhausted(self) -> bool:
        """Whether nothing comes after the segments given out so far."""

    async def next(self, ahead_s: Callable[[], float]) -> Segment | None:
        """The next segment, as soon as there is one; None after the last.

        `ahead_s` tells how many seconds of audio the listener has not heard yet.
        """


class _Complete:
    """A script that is known from the start."""

    def __init__(self, spoken: SegmentedText) -> None:
        self.removed_tags = spoken.removed_tags
        self._left = deque(spoken.segments)

    @property
    def exhausted(self) -> bool:
        return not self._left

    async def next(self, ahead_s: Callable[[], float]) -> Segment | None:
        return self._left.popleft() if self._left else None


class _Part(NamedTuple):
    text: str
    space: str  # between it and the next
    pause_ms: int
    ends_paragraph: bool


def segment_text(
    text: str, language: str, most_chars: int, *, join_chars: int | None = None, normalize: bool = False
) -> SegmentedText:
    """`text` in segments of at most `most_chars` characters, in order, at least one.

    Sentences are joined into a segment up to `join_chars` (default: as many as fit).
    `normalize` writes numbers out in the language. BadRequest where there is nothing a voice could say.
    """
    text, removed = _read(text, language, normalize)
    if not _SPEAKABLE.search(text):
        raise BadRequest("input has nothing to say: send some words.", param="input", code="empty_input")
    join = most_chars if join_chars is None else min(join_chars, most_chars)
    packed = _pack(_parts(text, language, most_chars - 1), most_chars - 1, join - 1)
    said = [part for part in packed if _SPEAKABLE.search(part.text)]
    last = len(said) - 1
    return SegmentedText(
        tuple(
            Segment(tags.unmark(_finished(part.text)), part.pause_ms if index < last else 0)
            for index, part in enumerate(said)
        ),
        removed,
    )


def _read(text: str, language: str, normalize: bool) -> tuple[str, int]:
    """One block a line, an empty line between paragraphs, known tags as single characters; tags removed."""
    text = strip_control(characters.plain(text))
    text = addresses.spell(markup.blocks(text), language)
    text, removed = tags.mark(markup.inline(text), language)
    if normalize:
        text = numbers.spell(text, language)
    # Again, since what stood between the letters of a control string may be gone by now.
    text = _REPEATED_MARKS.sub(_one_mark, strip_control(text))
    text = _DASHES.sub(" - ", _DOTS.sub("...", text))
    return _SPACES.sub(" ", text.replace("\u00a0", " ")), removed


def _one_mark(marks: re.Match[str]) -> str:
    """One mark of many: a question among exclamations is a question."""
    return next((mark for mark in marks[0] if mark in "?？"), marks[0][0])


def _parts(text: str, language: str, most: int) -> Iterator[_Part]:
    """Sentences, cut where they are too long."""
    lines = [line.strip() for line in text.split("\n")]
    first = True
    for index, block in enumerate(lines):
        if not block:
            continue
        paragraph = index + 1 == len(lines) or not lines[index + 1]
        held = ""
        for sentence in sentences(block, language):
            if held:
                yield from _sentence(held, most, first)
                first = False
            held = sentence
        *others, end = _sentence(held, most, first)
        yield from others
        stop = _finished(end.text)
        pause = PARAGRAPH_PAUSE_MS if paragraph else max(LINE_PAUSE_MS, end.pause_ms)
        yield _Part(stop, " ", pause, paragraph)
        first = False


def _sentence(sentence: str, most: int, first: bool) -> Iterator[_Part]:
    start = early_clause(sentence) if first and length(sentence) > LONG_FIRST_CHARS else 0
    for long in (sentence[:start], sentence[start:]):
        for part in cut(long, most) if long else ():
            said = part.strip()
            yield _Part(said, " " * part[-1:].isspace(), pause_ms(said), False)


def _pack(parts: Iterable[_Part], most: int, join: int) -> list[_Part]:
    """Join neighbours while they fit, within a paragraph. The first stays alone: sound starts with it."""
    packed: list[_Part] = []
    for part in parts:
        if not packed:
            packed.append(part)
            continue
        last = packed[-1]
        complete = length(last.text) >= FEW_CHARS and _SPEAKABLE.search(last.text)
        apart = len(packed) == 1 or last.ends_paragraph
        if complete and apart and _SPEAKABLE.search(part.text):
            packed.append(part)
        else:
            joined = _joined(last, part)
            if length(joined.text) <= (join if complete else most):
                packed[-1] = joined
            elif complete:
                packed.append(part)
            else:
                packed[-1:] = _recut(joined, most)
    if len(packed) > 1 and length(packed[-1].text) < FEW_CHARS:
        packed[-2:] = _recut(_joined(packed[-2], packed[-1]), most)
    return packed


def _joined(left: _Part, right: _Part) -> _Part:
    return right._replace(text=left.text + left.space + right.text)


def _recut(part: _Part, most: int) -> Iterator[_Part]:
    *others, end = _sentence(part.text, most, first=False)
    yield from others
    yield part._replace(text=end.text)


def pause_ms(text: str) -> int:
    """By the last mark of a text; 0 where it was cut within a clause."""
    text = text.rstrip()
    inner = text.rstrip(_CLOSING) if text.endswith(tuple(_CLOSING)) else text
    return _PAUSES.get(inner[-1:], 0) or _PAUSES.get(text[-1:], 0)


def _finished(text: str) -> str:
    """A full stop where there is none: without it the model repeats itself."""
    if text.endswith(_FINAL) or tags.is_mark(text[-1:]):
        return text
    text = text.rstrip(",;:- 、，；：،")
    stop = "."
    for first, own in _WITHOUT_STOP.items():
        if text[-1:] >= first and (own != "।" or text[-1:] < "\u0980"):
            stop = own
    return text + stop
