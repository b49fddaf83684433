"""Text as it is written, in fragments of any size → segments, each cut when that helps the listener.

Knows nothing of sound: it is told how much of it the listener still has. The first segment is cut at the earliest
clause, so that sound starts while the sentence is still being written; while there is audio in hand, at the ends
of sentences. What is left when the text is complete is cut as a whole text is (segmenter.py).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from orpheus.errors import BadRequest, TooLarge
from orpheus.text.segmenter import LINE_PAUSE_MS, PARAGRAPH_PAUSE_MS, Segment, pause_ms, segment_text
from orpheus.text.sentences import CLAUSE_END, cut, length, sentences, words

LEAST_WORDS = 3  # of a segment that is no whole sentence
FIRST_WORDS = 8  # without a clause among them: it is cut after the last,
LEFT_WORDS = 2  # once there are so many more, so that no single word is left for the next
QUIET_S = 0.25  # without new text: whoever writes it pauses
OPEN_S = 1.0  # and then does not complete what seemed to have begun ("I love you <3")
CLAUSE_BELOW_S = 1.0  # of audio in hand; with more, only whole sentences are taken
WORDS_BELOW_S = 0.4  # with less, any words
LOOKS_AT = (
    4  # times a segment's length, from where it begins: all sentences of a long text would take too long
)

# A newline that ends what came before it: an empty line follows, or an item of a list, or a heading.
_LINE_END = re.compile(r"\n(?=[ \t]*(?:\n|[-*+•] |\d{1,3}[.)] |#))")
_ENDED = re.compile(r"[.!?。．！？।॥؟۔…][\"')\]」』”’]*\s*$")
# What is not cut in two while it may still be completed, and within how many characters from where it began.
_TWINS = (("```", 2000), ("**", 100), ("`", 100))
_BRACKETS = (("<", ">", 20), ("[", "]", 200), ("](", ")", 200))
_WORD = re.compile(r"\S+\s+")
_OPENS = ("(", "[", "“", "‘", "«", "¿", "¡")
_CLOSES = re.compile(r"[,.;:!?)\]”’。，、！？؟،।]|'(?:s|t|re|ve|ll|d|m)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """Text as it was received, and which segments it is spoken in."""

    text: str
    first: int  # its first segment, counted from the beginning
    chars: tuple[int, ...]  # of each of its segments


class StreamingSegmenter:
    """A script that is written while it is spoken. Used from one event loop."""

    def __init__(
        self,
        language: str,
        segment_chars: int,
        *,
        most_chars: int,
        join_chars: int | None = None,
        normalize: bool = False,
    ) -> None:
        """Segments of at most `segment_chars`, sentences joined up to `join_chars`; `most_chars` in all."""
        self.removed_tags = 0
        self.spans: list[Span] = []  # a segment that was given out is never changed by what comes later
        self.chars = 0  # received
        self._language = language
        self._segment_chars = segment_chars
        self._join_chars = min(join_chars or segment_chars, segment_chars)
        self._most_chars = most_chars
        self._normalize = normalize
        self._half = ""  # of a character, whose other half comes with the next fragment
        self._rest = ""  # not yet in a span
        self._unsaid = ""  # of it, what no voice can say: it belongs to the span that follows
        self._ready: deque[Segment] = deque()
        self._given = 0  # segments of all spans
        self._ended = False
        self._pushed_s = 0.0
        self._changed = asyncio.Event()

    def push(self, text: str) -> None:
        """Any fragment: characters, tokens, words; joined as they are. TooLarge where it gets too long."""
        self.chars += len(text)
        if self.chars > self._most_chars:
            raise TooLarge(f"This utterance has more than {self._most_chars} characters: send it as several.")
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        self._rest += _whole_characters(text.removesuffix(self._half))
        self._pushed_s = time.monotonic()
        self._changed.set()

    def push_word(self, text: str) -> None:
        """One or more whole words without the spaces around them."""
        if self._rest.endswith(" ") and _CLOSES.match(text):
            self._rest = self._rest[:-1]
        self.push(text if text[-1:].isspace() or text in _OPENS else text + " ")

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    @property
    def unsaid(self) -> str:
        """The end of the text, where no voice can say it."""
        return self._unsaid

    @property
    def exhausted(self) -> bool:
        return self._ended and not self._ready and not self._rest.strip()

    async def next(self, ahead_s: Callable[[], float]) -> Segment | None:
        """See SegmentSource. BadRequest at the end of a text in which there was nothing to say."""
        while not self._ready:
            in_hand_s = ahead_s() if self._given else 0.0
            if self._rest and (end := self._cut(in_hand_s)):
                self._take(end)
                if not self._ready:  # nothing in it could be said; thousands of such cuts may follow
                    await asyncio.sleep(0)
            elif self._ended:
                if not self._given:
                    raise BadRequest(
                        "There was nothing to say: send some words.", param="input", code="empty_input"
                    )
                return None
            else:
                await self._change(in_hand_s)
        return self._ready.popleft()

    async def _change(self, in_hand_s: float) -> None:
        """Wait for more text, or until what there is may be cut for another reason."""
        self._changed.clear()
        times = (
            QUIET_S - self._quiet_s(),
            OPEN_S - self._quiet_s(),
            in_hand_s - CLAUSE_BELOW_S,
            in_hand_s - WORDS_BELOW_S,
        )
        later = [seconds for seconds in times if seconds > 0] if self._rest else []
        try:
            async with asyncio.timeout(min(later) + 0.001 if later else None):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _quiet_s(self) -> float:
        return time.monotonic() - self._pushed_s

    def _cut(self, in_hand_s: float) -> int:
        """Where what is there is cut now; 0 to wait for more."""
        text = self._rest
        if self._ended:
            return len(text)
        quiet = self._quiet_s() >= QUIET_S
        complete = quiet and bool(_ENDED.search(text))  # a sentence, and its writer pauses
        whole = text if complete or length(text[-2:]) > 2 else text[: _last_space(text)]  # words
        if self._quiet_s() < OPEN_S and _open(whole):
            return 0
        if end := self._sentences(text, complete):
            return end
        if in_hand_s <= CLAUSE_BELOW_S and (end := _clause(whole)):
            return end
        if in_hand_s <= WORDS_BELOW_S:
            count = words(whole.strip())
            if quiet and count >= LEAST_WORDS:
                return len(whole)
            if count >= FIRST_WORDS + LEFT_WORDS:
                return _words_end(whole, FIRST_WORDS)
        return len(next(cut(whole, self._segment_chars - 1))) if length(whole) > self._segment_chars else 0

    def _sentences(self, text: str, complete: bool) -> int:
        """The end of the sentences that are complete: of the first, or of as many as are joined."""
        if len(text) > LOOKS_AT * self._segment_chars:
            text, complete = text[: LOOKS_AT * self._segment_chars], False
        if line := _LINE_END.search(text, len(text) - len(text.lstrip())):
            text, complete = text[: line.end()], True
        found = list(sentences(text, self._language))
        if not complete:
            found.pop()  # not known to be complete until another has begun
        end = 0
        for sentence in found:
            if end and (not self._given or length(text[:end] + sentence) > self._join_chars):
                break
            end += len(sentence)
        return end

    def _take(self, end: int) -> None:
        """Everything up to `end` becomes a span."""
        text, self._rest = self._rest[:end], self._rest[end:]
        received, self._unsaid = self._unsaid + text, ""
        try:
            spoken = segment_text(
                text,
                self._language,
                self._segment_chars,
                join_chars=self._join_chars,
                normalize=self._normalize,
            )
        except BadRequest:  # an emoji alone, a row of stars
            self._unsaid = received
            return
        self.removed_tags += spoken.removed_tags
        *others, last = spoken.segments
        self.spans.append(Span(received, self._given, tuple(length(p.text) for p in spoken.segments)))
        self._given += len(spoken.segments)
        self._ready.extend([*others, replace(last, pause_ms=_pause_after(text, self._rest))])


def _whole_characters(text: str) -> str:
    """Halves of a character (JavaScript counts an emoji as two) joined; one without the other is a U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _last_space(text: str) -> int:
    """The end of the last space."""
    return next((n for n in range(len(text), 0, -1) if text[n - 1].isspace()), 0)


def _words_end(text: str, count: int) -> int:
    """The end of the first `count` words; all of it where there are no spaces."""
    ends = [match.end() for match in islice(_WORD.finditer(text), count)]
    return ends[-1] if len(ends) == count else len(text)


def _open(text: str) -> bool:
    """Whether something began, not long ago, that is read as a whole: code, emphasis, a link, a tag."""
    begun = [(text.rfind(mark), most) for mark, most in _TWINS if text.count(mark) % 2]
    begun += [
        (text.rfind(opening), most)
        for opening, closing, most in _BRACKETS
        if text.rfind(opening) > text.rfind(closing)
    ]
    return any(len(text) - start <= most for start, most in begun)


def _clause(text: str) -> int:
    """The end of the first clause that is no fragment; 0 if there is none."""
    for match in CLAUSE_END.finditer(text):
        head = text[: match.end()]
        if words(head.strip()) >= LEAST_WORDS and not _open(head):
            return match.end()
    return 0


def _pause_after(text: str, rest: str) -> int:
    if text.rstrip(" \t").endswith("\n"):
        paragraph = text.rstrip(" \t").endswith("\n\n") or rest.lstrip(" \t").startswith("\n")
        return PARAGRAPH_PAUSE_MS if paragraph else LINE_PAUSE_MS
    return pause_ms(text)
