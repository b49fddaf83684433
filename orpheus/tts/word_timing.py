"""When each word of a text begins and ends, estimated from the lengths of its segments.

In: the text as it was received (the streaming segmenter's spans) and the samples of its segments so far. Out: words in
order with start and stop in seconds from the utterance's first sample. A word's position within its segment is its
position among the segment's characters; a segment's length is estimated from those before it until it is complete,
and exact from then on. A word that was given out is never revised.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from orpheus.text import Segment, Span, StreamingSegmenter, length
from orpheus.tts.usage import Usage

CHARS_PER_S = 14.0  # at speed 1, until a segment has shown how fast the voice speaks
MIN_GAP_S = 0.001  # between the starts of two words: clients order words by them


@dataclass(frozen=True)
class Word:
    """One word, as it was received; seconds from the utterance's first sample."""

    text: str
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class _Position:
    """Where a word stands: the number of its segment, and its start and stop within it, from 0 to 1."""

    text: str
    segment: int
    start: float
    stop: float


class WordTimer:
    """The words of one utterance, each given out once, in order."""

    def __init__(
        self, text: StreamingSegmenter, usage: Usage, sample_rate: int, *, speed: float = 1.0
    ) -> None:
        """`usage` counts samples at `sample_rate` Hz as the voice speaks them; words are timed as they are played."""
        self._text = text
        self._usage = usage
        self._rate = sample_rate * speed  # samples a second of playout
        self._per_char = sample_rate / CHARS_PER_S  # samples, until they are known
        self._spans_read = 0
        self._pending: deque[_Position] = deque()
        self._last = _Position("", -1, 0.0, 0.0)  # the word given out last, and when it starts
        self._last_s = -MIN_GAP_S

    def due(self, samples: int) -> Iterator[Word]:
        """Words that start within the first `samples` samples, and all words of segments that are over by then."""
        self._read_spans()
        while self._pending:
            position = self._pending[0]
            if not self._is_sent(position.segment):
                return
            word = self._timed(position)
            if not self._is_sent(position.segment + 1) and word.start_s * self._rate >= samples:
                return
            self._last, self._last_s = self._pending.popleft(), word.start_s
            yield word

    def rest(self) -> Iterator[Word]:
        """All remaining words, once every sample is sent; also those that no voice can say."""
        yield from self.due(self._usage.samples + 1)
        for text in [position.text for position in self._pending] + self._text.unsaid.split():
            start_s = max(self._usage.samples / self._rate, self._last_s + MIN_GAP_S)
            self._last_s = start_s
            yield Word(text, start_s, start_s)

    def _is_sent(self, number: int) -> bool:
        segments = self._usage.segments
        return number < len(segments) and segments[number].start is not None

    def _timed(self, position: _Position) -> Word:
        """Between the word before it and the end of the segment, as far as that is known."""
        segment = self._usage.segments[position.segment]
        assert segment.start is not None
        segment_s = segment.start / self._rate
        end_s = segment_s + self._samples(segment) / self._rate
        same = self._last.segment == position.segment
        since, since_s = (self._last.start, self._last_s) if same else (0.0, segment_s)
        per_unit_s = max(0.0, end_s - since_s) / max(1 - since, 1e-9)
        start_s = max(since_s + (position.start - since) * per_unit_s, self._last_s + MIN_GAP_S)
        return Word(position.text, start_s, max(start_s, since_s + (position.stop - since) * per_unit_s))

    def _samples(self, segment: Segment) -> float:
        """Length of a segment without the pause after it, estimated until it is complete."""
        if segment.complete:
            return segment.samples - segment.pause_samples
        known = [other for other in self._usage.segments if other.complete]
        chars = sum(length(other.text) for other in known)
        spoken = sum(other.samples - other.pause_samples for other in known)
        per_char = spoken / chars if chars else self._per_char
        return max(segment.samples, length(segment.text) * per_char)

    def _read_spans(self) -> None:
        for span in self._text.spans[self._spans_read :]:
            self._pending += _positions(span, self._text.can_say)
        self._spans_read = len(self._text.spans)


def _positions(span: Span, can_say: Callable[[str], bool]) -> Iterator[_Position]:
    """Each word's segment and its position in it, by characters; a word that is not spoken takes no time."""
    words, silent_chars = [], 0
    for match in re.finditer(r"\S+", span.text):
        start = match.start() - silent_chars
        if not can_say(match[0]):
            silent_chars += len(match[0])
        words.append((match[0], start, match.end() - silent_chars))
    if not words:
        return
    chars = span.chars
    begin, total = words[0][1], max(1, words[-1][2] - words[0][1])
    edges = [0.0, *(edge / sum(chars) for edge in accumulate(chars))]
    number = 0
    for word, start, stop in words:
        left, right = (start - begin) / total, (stop - begin) / total
        while number + 1 < len(chars) and left >= edges[number + 1]:
            number += 1
        width = edges[number + 1] - edges[number]
        yield _Position(
            word,
            span.first + number,
            (left - edges[number]) / width,
            min(1.0, (right - edges[number]) / width),
        )
