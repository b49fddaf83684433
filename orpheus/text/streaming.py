"""Text as it is written, in fragments of any size → segments, as soon as each is worth speaking.

How soon depends on the audio the listener still has, in seconds. The first segment ends at the earliest clause, so that
audio starts while the sentence is still being written; while there is audio left, segments end where sentences do. What
remains when the text is complete is split like any complete text (segmenter.py).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from orpheus.errors import TooLarge
from orpheus.text import entities, scripts
from orpheus.text.segmenter import LINE_PAUSE_MS, PARAGRAPH_PAUSE_MS, Segment, pause_ms, segment_any
from orpheus.text.sentences import CLAUSE_END, count_words, length, split_long, split_sentences

MIN_WORDS = 3  # in a segment that is not a whole sentence
RUN_ON_WORDS = 8  # without a clause end among them: the segment ends after the last of these,
MIN_WORDS_LEFT = 2  # once this many more have come, so that the next segment is not a single word
WRITER_PAUSE_S = 0.25  # without new text, after which the writer is taken to be pausing
UNCLOSED_S = 1.0  # without new text, after which "I love you <3" is taken not to have opened a tag
CLAUSE_BELOW_S = 1.0  # of audio left; with more, only whole sentences are taken
WORDS_BELOW_S = 0.4  # of audio left; with less, any words are taken
# Sentences are searched for within this many segment lengths: all of a long text would take too long.
SEARCH_SEGMENTS = 4

# A line break that ends what came before it: an empty line follows, or a list item, or a heading.
_LINE_END = re.compile(r"\n(?=[ \t]*(?:\n|[-*+•] |\d{1,3}[.)] |#))")
_SENTENCE_ENDED = re.compile(r"[.!?。．！？।॥؟۔…][\"')\]」』”’]*\s*$")
# Markup that is not split while it may still be closed, and within how many characters of its opening.
_SYMMETRIC_MARKUP = (("```", 2000), ("**", 100), ("`", 100))
_BRACKETS = (("<", ">", 20), ("[", "]", 200), ("](", ")", 200))
_WORD = re.compile(r"\S+\s+")
_OPENING = ("(", "[", "“", "‘", "«", "¿", "¡")
_JOINS_PREVIOUS = re.compile(r"[,.;:!?)\]”’。，、！？؟،।]|'(?:s|t|re|ve|ll|d|m)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """Text as it was received, its entities decoded, and the segments that speak it."""

    text: str
    first: int  # index of its first segment
    chars: tuple[int, ...]  # length of each of its segments


class StreamingSegmenter:
    """A SegmentSource of a text that is still being written. Belongs to the event loop it is used from."""

    def __init__(
        self,
        language: str,
        segment_chars: int,
        *,
        max_chars: int,
        join_chars: int | None = None,
        normalize: bool = False,
    ) -> None:
        """Segments as `segment_text` makes them; `max_chars` limits the whole text, in characters received."""
        self.removed_tags = 0
        self.left_out_chars = 0
        self.spans: list[Span] = []  # final: a segment that was returned is never changed by later text
        self.chars = 0  # received
        self._language = language
        self._segment_chars = segment_chars
        self._join_chars = min(join_chars or segment_chars, segment_chars)
        self._max_chars = max_chars
        self._normalize = normalize
        self._unfinished = ""  # an entity or a surrogate pair, whose end comes with the next fragment
        self._pending = ""  # not yet in a span
        self._unsaid = ""  # taken from `_pending`, but unspeakable: it goes into the next span
        self._ready: deque[Segment] = deque()
        self._segments = 0  # in all spans
        self._ended = False
        self._pushed_s = 0.0
        self._changed = asyncio.Event()

    def push(self, text: str) -> None:
        """Append a fragment: characters, tokens or words, spaces included. TooLarge if the text gets too long."""
        self.chars += len(text)
        if self.chars > self._max_chars:
            raise TooLarge(
                f"This utterance has more than {self._max_chars} characters: split it into several."
            )
        text = self._unfinished + text
        end = entities.finished_end(text)
        self._pending += entities.decode(text[:end])
        self._unfinished = text[end:]
        self._pushed_s = asyncio.get_running_loop().time()
        self._changed.set()

    def push_word(self, text: str) -> None:
        """Append one or more whole words that come without the spaces around them."""
        text = entities.decode(text)
        if self._pending.endswith(" ") and _JOINS_PREVIOUS.match(text):
            self._pending = self._pending[:-1]
        self.push(text if text[-1:].isspace() or text in _OPENING else text + " ")

    def end(self) -> None:
        """The text is complete."""
        if self._unfinished.startswith("&"):
            self._pending += entities.decode(self._unfinished)
        self._unfinished = ""
        self._ended = True
        self._changed.set()

    @property
    def unsaid(self) -> str:
        """The end of the text as received, if nothing in it can be spoken: an emoji, a row of stars."""
        return self._unsaid

    def can_say(self, word: str) -> bool:
        """Whether any of a word as received is spoken; ASCII is taken to be."""
        return word.isascii() or any(map(str.isalnum, scripts.leave_out(word, self._language)[0]))

    @property
    def exhausted(self) -> bool:
        return self._ended and not self._ready and not self._pending.strip()

    async def next(self, buffered_s: Callable[[], float]) -> Segment | None:
        """See SegmentSource. BadRequest at the end of a text of which the model can speak nothing.

        A text with nothing to say, such as "..." or an emoji, has no segments: it is said in no time.
        """
        while not self._ready:
            remaining_s = buffered_s() if self._segments else 0.0
            if self._pending and (end := self._segment_end(remaining_s)):
                self._add_span(end)
                if not self._ready:  # unspeakable; thousands of such spans may follow
                    await asyncio.sleep(0)
            elif self._ended:
                if self.left_out_chars and not self._segments:
                    raise scripts.unspeakable(self._unsaid, self._language)
                return None
            else:
                await self._wait(remaining_s)
        return self._ready.popleft()

    async def _wait(self, remaining_s: float) -> None:
        """Wait for more text, or until a limit has passed that changes where the pending text may be split."""
        self._changed.clear()
        limits_s = (
            WRITER_PAUSE_S - self._quiet_s(),
            UNCLOSED_S - self._quiet_s(),
            remaining_s - CLAUSE_BELOW_S,
            remaining_s - WORDS_BELOW_S,
        )
        upcoming_s = [limit_s for limit_s in limits_s if limit_s > 0] if self._pending else []
        try:
            async with asyncio.timeout(min(upcoming_s) + 0.001 if upcoming_s else None):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _quiet_s(self) -> float:
        return asyncio.get_running_loop().time() - self._pushed_s

    def _segment_end(self, remaining_s: float) -> int:
        """Where to split the pending text with `remaining_s` of audio left; 0 to wait for more."""
        text = self._pending
        if self._ended:
            return len(text)
        paused = self._quiet_s() >= WRITER_PAUSE_S
        complete = paused and bool(_SENTENCE_ENDED.search(text))
        # The last word may not be complete; a wide character is.
        whole = text if complete or length(text[-2:]) > 2 else text[: _last_space_end(text)]
        if self._quiet_s() < UNCLOSED_S and _has_open_markup(whole):
            return 0
        if end := self._sentences_end(text, complete):
            return end
        if remaining_s <= CLAUSE_BELOW_S and (end := _first_clause_end(whole)):
            return end
        if remaining_s <= WORDS_BELOW_S:
            count = count_words(whole.strip())
            if paused and count >= MIN_WORDS:
                return len(whole)
            if count >= RUN_ON_WORDS + MIN_WORDS_LEFT:
                return _words_end(whole, RUN_ON_WORDS)
        if length(whole) > self._segment_chars:
            return len(next(split_long(whole, self._segment_chars - 1)))
        return 0

    def _sentences_end(self, text: str, complete: bool) -> int:
        """The end of the first complete sentence, later of as many as share a segment; 0 if there is none."""
        if len(text) > SEARCH_SEGMENTS * self._segment_chars:
            text, complete = text[: SEARCH_SEGMENTS * self._segment_chars], False
        if line := _LINE_END.search(text, len(text) - len(text.lstrip())):
            text, complete = text[: line.end()], True
        sentences = list(split_sentences(text, self._language))
        if not complete:
            sentences.pop()  # complete only once another has begun
        end = 0
        for sentence in sentences:
            if end and (not self._segments or length(text[:end] + sentence) > self._join_chars):
                break
            end += len(sentence)
        return end

    def _add_span(self, end: int) -> None:
        """Turn the pending text up to `end` into a span and its segments."""
        text, self._pending = self._pending[:end], self._pending[end:]
        received, self._unsaid = self._unsaid + text, ""
        segmented = segment_any(
            text, self._language, self._segment_chars, join_chars=self._join_chars, normalize=self._normalize
        )
        self.left_out_chars += segmented.left_out_chars
        self.removed_tags += segmented.removed_tags
        if not segmented.segments:
            self._unsaid = received
            return
        *others, last = segmented.segments
        chars = tuple(length(segment.text) for segment in segmented.segments)
        self.spans.append(Span(received, self._segments, chars))
        self._segments += len(segmented.segments)
        self._ready.extend([*others, replace(last, pause_ms=_pause_after_ms(text, self._pending))])


def _last_space_end(text: str) -> int:
    return next((n for n in range(len(text), 0, -1) if text[n - 1].isspace()), 0)


def _words_end(text: str, count: int) -> int:
    """The end of the first `count` words; of the whole text if it has no spaces."""
    ends = [match.end() for match in islice(_WORD.finditer(text), count)]
    return ends[-1] if len(ends) == count else len(text)


def _has_open_markup(text: str) -> bool:
    """Whether code, emphasis, a link or a tag was opened recently and not closed."""
    opened = [(text.rfind(mark), max_chars) for mark, max_chars in _SYMMETRIC_MARKUP if text.count(mark) % 2]
    opened += [
        (text.rfind(opening), max_chars)
        for opening, closing, max_chars in _BRACKETS
        if text.rfind(opening) > text.rfind(closing)
    ]
    return any(len(text) - start <= max_chars for start, max_chars in opened)


def _first_clause_end(text: str) -> int:
    """The end of the first clause of at least MIN_WORDS; 0 if there is none."""
    for match in CLAUSE_END.finditer(text):
        clause = text[: match.end()]
        if count_words(clause.strip()) >= MIN_WORDS and not _has_open_markup(clause):
            return match.end()
    return 0


def _pause_after_ms(text: str, following: str) -> int:
    if text.rstrip(" \t").endswith("\n"):
        paragraph = text.rstrip(" \t").endswith("\n\n") or following.lstrip(" \t").startswith("\n")
        return PARAGRAPH_PAUSE_MS if paragraph else LINE_PAUSE_MS
    return pause_ms(text)
