"""Text as it is written, in fragments of any size → segments, as soon as each is worth speaking.

How soon depends on the audio the listener still has, in seconds. The first segment ends at the earliest clause, so that
audio starts while the sentence is still being written; while there is audio left, segments end where sentences do. What
remains when the text is complete is split like any complete text (segmenter.py).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from orpheus.errors import TooLarge
from orpheus.text import citations, elements, entities, math, numbers, pauses, scripts
from orpheus.text.incoming import IncomingText
from orpheus.text.segmenter import (
    LINE_PAUSE_MS,
    PARAGRAPH_PAUSE_MS,
    PAUSE_MS,
    Segment,
    pause_ms,
    segment_spoken,
)
from orpheus.text.sentences import (
    CLAUSE_END,
    can_cut,
    count_words,
    ends_sentence,
    length,
    split_long,
    split_sentences,
)

MIN_WORDS = 3  # in a segment that is not a whole sentence
RUN_ON_WORDS = 8  # without a clause end among them: the segment ends after the last of these,
MIN_WORDS_LEFT = 2  # once this many more have come, so that the next segment is not a single word
WRITER_PAUSE_S = 0.25  # without new text, after which the writer is taken to be pausing
# Without new text, after which "I love you <3" is taken not to have opened a tag, and "at 7 a.m." to be complete.
UNCLOSED_S = 1.0
CLAUSE_BELOW_S = 1.0  # of audio left; with more, only whole sentences are taken
WORDS_BELOW_S = 0.4  # of audio left; with less, any words are taken
# Sentences are searched for within this many segment lengths: all of a long text would take too long.
SEARCH_SEGMENTS = 4

# A line break that ends what came before it: an empty line follows, or a list item, or a heading. Or the end of a block.
_LINE_END = re.compile(rf"\n(?=[ \t]*(?:\n|[-*+•] |\d{{1,3}}[.)] |#))|{elements.BLOCK_END}", re.IGNORECASE)
# Markup that is not split while it may still be closed, and within how many characters of its opening.
_SYMMETRIC_MARKUP = (("```", 2000), ("**", 100), ("`", 100))
_BRACKETS = (("<", ">", 20), ("[", "]", 200), ("](", ")", 200))
_ATTRIBUTES_CHARS = 400  # of a tag that has some, as in <prosody rate="slow" pitch="low">
_TAIL_CHARS = 500  # in which the marks at the end of a sentence are looked for
# Without spaces between words; Korean has them.
_SPACELESS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff65\U00020000-\U0003ffff]"
)
_NUMBER = re.compile(r"\S{0,40}\d|[=×÷≈≠≤≥]")
_NUMBER_LAST = re.compile(r"(?:\d[^\s,;:!?]*(?:\s+[-+*/<>])?|[=×÷≈≠≤≥])\s+\Z")
_WORD = re.compile(r"\S+\s+")
# Left over from a clause whose end was not waited for; not of ".5" and ".NET".
_STRAY_STOP = re.compile(r"\A\s*(?:[,.;:!?]{1,2}(?=\s|\Z)|[。，、；：！？।።။។།،؛؟])")
_OPENING = ("(", "[", "“", "‘", "«", "¿", "¡")
_JOINS_PREVIOUS = re.compile(r"[,.;:!?)\]”’。，、！？؟،؛।։።፣၊။។།]|'(?:s|t|re|ve|ll|d|m)\b", re.IGNORECASE)


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
        tags: tuple[str, ...] | None = None,
        join_chars: int | None = None,
        normalize: bool = False,
        skip_directions: bool = False,
    ) -> None:
        """Segments as `segment_text` makes them; `max_chars` limits the whole text, in characters received."""
        self.left_out_chars = 0
        self.spans: list[Span] = []  # final: a segment that was returned is never changed by later text
        self.chars = 0  # received
        self._language = language
        self._tags = tags
        self._segment_chars = segment_chars
        self._join_chars = min(join_chars or segment_chars, segment_chars)
        self._max_chars = max_chars
        self._normalize = normalize
        self._removed_tags = 0
        self._incoming = IncomingText(skip_directions=skip_directions)
        self._unfinished = ""  # an entity or a surrogate pair, whose end comes with the next fragment
        self._pending = ""  # let through, but not yet in a span
        self._searched = 0  # characters of it in which no sentence ends
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
        self._unfinished = text[end:]
        before = self._pending
        self._pending = self._incoming.append(before, entities.decode(text[:end]))
        self._searched = min(self._searched, len(self._pending))  # it may have lost its end
        if self._pending != before:  # reasoning is not writing: the listener hears nothing of it
            self._pushed_s = asyncio.get_running_loop().time()
        self._changed.set()

    def push_word(self, text: str) -> None:
        """Append one or more whole words that come without the spaces around them."""
        text = entities.decode(text)
        if not self._incoming.holds and self._pending.endswith(" ") and _JOINS_PREVIOUS.match(text):
            self._pending = self._pending[:-1]
        self.push(text if text[-1:].isspace() or text in _OPENING else text + " ")

    def end(self) -> None:
        """The text is complete."""
        rest = entities.decode(self._unfinished) if self._unfinished.startswith("&") else ""
        self._unfinished = ""
        self._pending = self._incoming.end(self._incoming.append(self._pending, rest))
        self._ended = True
        self._changed.set()

    @property
    def removed_tags(self) -> int:
        return self._incoming.removed_tags + self._removed_tags

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
        return self._ready.popleft() if await self.has_next(buffered_s) else None

    async def has_next(self, buffered_s: Callable[[], float] = lambda: 0.0) -> bool:
        """Wait for the next segment, and leave it to `next`; False after the last. BadRequest as from `next`."""
        while not self._ready or not self._segments:  # a pause alone is nothing to say
            remaining_s = buffered_s() if self._segments else 0.0
            if self._pending and (end := self._segment_end(remaining_s)):
                self._add_span(end)
                if not self._ready:  # unspeakable; thousands of such spans may follow
                    await asyncio.sleep(0)
            elif self._ended:
                if self.left_out_chars and not self._segments:
                    raise scripts.unspeakable(self._unsaid, self._language)
                return False
            else:
                await self._wait(remaining_s)
        return True

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
        if pause := pauses.PLACEHOLDER.search(text):
            return pause.start() or pause.end()
        if self._ended:
            return len(text)
        paused = self._incoming.inside or self._quiet_s() >= WRITER_PAUSE_S
        waited = self._quiet_s() >= UNCLOSED_S
        ended = ends_sentence(text, len(text), self._language)
        undecided = ended is None and not waited
        complete = paused and ended is not False and not undecided
        # The last word may not be complete; a character of a script without spaces is.
        whole = text if complete or _SPACELESS.search(text[-1:]) else text[: _last_space_end(text)]
        if _has_open_markup(whole) and not (waited and _has_open_markup(text)):
            return 0
        if end := self._sentences_end(text, complete):
            return end
        if remaining_s <= CLAUSE_BELOW_S and (end := self._first_clause_end(whole)):
            return end
        if remaining_s <= WORDS_BELOW_S:
            count = count_words(whole.strip())
            if waited and count >= MIN_WORDS and not whole.rstrip().endswith("."):
                return len(whole)
            if paused and not undecided and (end := self._words_end(text, whole, None)):
                return end
            if count >= RUN_ON_WORDS + MIN_WORDS_LEFT and (end := self._words_end(text, whole, RUN_ON_WORDS)):
                return end
        if length(whole) > self._segment_chars:
            return len(next(split_long(whole, self._segment_chars - 1, self._language)))
        return 0

    def _sentences_end(self, text: str, complete: bool) -> int:
        """The end of the first complete sentence, later of as many as share a segment; 0 if there is none."""
        if len(text) > SEARCH_SEGMENTS * self._segment_chars:
            text, complete = text[: SEARCH_SEGMENTS * self._segment_chars], False
        if line := _LINE_END.search(text, len(text) - len(text.lstrip())):
            text, complete = text[: line.end()], True
        found = list(split_sentences(text, self._language, self._searched))
        self._searched = 0 if complete or len(found) > 1 else len(text)
        sentences = list(self._whole(text, found))
        if not complete:
            sentences.pop()  # complete only once another has begun
        end = 0
        for sentence in sentences:
            if end and (not self._segments or length(text[:end] + sentence) > self._join_chars):
                break
            end += len(sentence)
        return end

    def _first_clause_end(self, text: str) -> int:
        """The end of the first clause of at least MIN_WORDS; 0 if there is none."""
        for match in CLAUSE_END.finditer(text):
            clause = text[: match.end()]
            if (
                count_words(clause.strip()) >= MIN_WORDS
                and can_cut(text, match.end(), self._language)
                and not _has_open_markup(clause)
                and not self._is_within(text, match.end())
            ):
                return match.end()
        return 0

    def _words_end(self, text: str, whole: str, count: int | None) -> int:
        """The end of at least MIN_WORDS and at most `count` of the words in `whole`, where `text` may be cut; 0 if none.

        Of a text without spaces, its end.
        """
        ends = [match.end() for match in islice(_WORD.finditer(whole), count)]
        if len(ends) != count:
            ends.append(len(whole))
        return next(
            (
                end
                for end in reversed(ends)
                if count_words(whole[:end].strip()) >= MIN_WORDS
                and can_cut(text, end, self._language)
                and not self._is_beside_number(text, end)
            ),
            0,
        )

    def _whole(self, text: str, sentences: Iterable[str]) -> Iterator[str]:
        """The sentences of `text`, those joined that end within a formula or a number."""
        start = end = 0
        for sentence in sentences:
            end += len(sentence)
            if end == len(text) or not self._is_within(text, end):
                yield text[start:end]
                start = end

    def _is_within(self, text: str, end: int) -> bool:
        """Whether `end` lies within a formula or a number that is read as one."""
        return math.is_open(text[:end]) or (self._normalize and numbers.is_within(text, end, self._language))

    def _is_beside_number(self, text: str, end: int) -> bool:
        """Whether a number is on either side of `end`: how it is read depends on its neighbours."""
        beside = self._normalize and (
            _NUMBER_LAST.search(text, max(0, end - 40), end) or _NUMBER.match(text, end)
        )
        return bool(beside) or self._is_within(text, end)

    def _add_span(self, end: int) -> None:
        """Turn the pending text up to `end` into a span and its segments."""
        text, self._pending = self._pending[:end], self._pending[end:]
        self._searched = 0
        if silence_ms := pauses.length_ms(text):
            self._add_silence(silence_ms)
            return
        received, self._unsaid = self._unsaid + text, ""
        segmented = segment_spoken(
            _STRAY_STOP.sub("", text) if self._segments else text,
            self._language,
            self._segment_chars,
            tags=self._tags,
            join_chars=self._join_chars,
            normalize=self._normalize,
        )
        self.left_out_chars += segmented.left_out_chars
        self._removed_tags += segmented.removed_tags
        if not segmented.segments:
            self._unsaid = received
            return
        *others, last = segmented.segments
        chars = tuple(length(segment.text) for segment in segmented.segments)
        self.spans.append(Span(received, self._segments, chars))
        self._segments += len(segmented.segments)
        after_ms = _pause_after_ms(text, self._pending, self._language)
        if pauses.PLACEHOLDER.match(self._pending):  # it is what was asked for instead
            last = replace(last, pause_ms=0)
        else:
            last = replace(last, pause_ms=after_ms, ends_sentence=after_ms >= PAUSE_MS["."])
        self._ready.extend([*others, last])

    def _add_silence(self, silence_ms: int) -> None:
        if self._ready and not self._ready[-1].text:
            silence_ms = min(self._ready.pop().pause_ms + silence_ms, pauses.MAX_PAUSE_MS)
        self._ready.append(Segment("", silence_ms))


def _last_space_end(text: str) -> int:
    words = text.rsplit(None, 1)
    return len(text) if not words or text[-1].isspace() else len(text) - len(words[-1])


def _has_open_markup(text: str) -> bool:
    """Whether code, emphasis, a link or a tag was opened recently and not closed."""
    opened = [(text.rfind(mark), max_chars) for mark, max_chars in _SYMMETRIC_MARKUP if text.count(mark) % 2]
    opened += [
        (start, _ATTRIBUTES_CHARS if opening == "<" and "=" in text[start:] else max_chars)
        for opening, closing, max_chars in _BRACKETS
        if (start := text.rfind(opening)) > text.rfind(closing)
    ]
    return any(len(text) - start <= max_chars for start, max_chars in opened) or math.is_open(text)


def _pause_after_ms(text: str, following: str, language: str) -> int:
    text, _ = elements.strip(citations.strip_references(text[-_TAIL_CHARS:]))
    if text.rstrip(" \t").endswith("\n"):
        paragraph = text.rstrip(" \t").endswith("\n\n") or following.lstrip(" \t").startswith("\n")
        return PARAGRAPH_PAUSE_MS if paragraph else LINE_PAUSE_MS
    return pause_ms(text, following, language)
