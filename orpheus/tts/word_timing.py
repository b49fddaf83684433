"""Text as it was received, and how long its segments are → when each word is heard.

Knows nothing of sockets. A word's place within its segment is its place among the segment's characters; how long a
segment is, is estimated from those before it until it is made, and known then: what was told is never taken back.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from orpheus.text import StreamingSegmenter, length
from orpheus.tts.usage import Said, Usage

CHARS_A_SECOND = 14.0  # until a segment has shown how fast the voice speaks
APART_S = 0.001  # at least: clients order words by their beginning


@dataclass(frozen=True)
class Word:
    """One word, as it was received; seconds from the utterance's first sample."""

    text: str
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class _Place:
    text: str
    segment: int
    start: float  # of the segment's characters, 0 to 1
    stop: float


class WordTimer:
    """The words of one utterance, each given out once, in order."""

    def __init__(self, text: StreamingSegmenter, usage: Usage, samples_a_second: float) -> None:
        """`samples_a_second` of `usage.samples`, as they are heard."""
        self._text = text
        self._usage = usage
        self._rate = samples_a_second
        self._spans = 0  # of the text, taken
        self._places: deque[_Place] = deque()
        self._last = _Place("", -1, 0.0, 0.0)  # the word given out last, and when it begins
        self._last_s = -APART_S

    def due(self, samples: int) -> Iterator[Word]:
        """Those that begin within the first `samples` samples, and all of the segments that are over by then."""
        self._take_spans()
        said = self._usage.said
        while self._places:
            place = self._places[0]
            if place.segment >= len(said) or said[place.segment].begins is None:
                return
            over = place.segment + 1 < len(said) and said[place.segment + 1].begins is not None
            word = self._timed(place)
            if not over and word.start_s * self._rate >= samples:
                return
            self._last, self._last_s = self._places.popleft(), word.start_s
            yield word

    def rest(self) -> Iterator[Word]:
        """All that is left, once every sample is sent: also what no voice can say."""
        yield from self.due(self._usage.samples + 1)
        left = [place.text for place in self._places] + self._text.unsaid.split()
        for text in left:
            start_s = max(self._usage.samples / self._rate, self._last_s + APART_S)
            self._last_s = start_s
            yield Word(text, start_s, start_s)

    def _timed(self, place: _Place) -> Word:
        """Between the word before it and the end of the segment, as far as that is known."""
        said = self._usage.said[place.segment]
        assert said.begins is not None
        begins_s = said.begins / self._rate
        ends_s = begins_s + self._length(said) / self._rate
        since, since_s = (
            (self._last.start, self._last_s) if self._last.segment == place.segment else (0.0, begins_s)
        )
        a_part_s = max(0.0, ends_s - since_s) / max(1 - since, 1e-9)
        start_s = max(since_s + (place.start - since) * a_part_s, self._last_s + APART_S)
        return Word(place.text, start_s, max(start_s, since_s + (place.stop - since) * a_part_s))

    def _length(self, said: Said) -> float:
        """Of a segment in samples, without the pause after it."""
        if said.complete:
            return said.made - said.pause
        known = [other for other in self._usage.said if other.complete]
        chars = sum(length(other.text) for other in known)
        a_char = sum(other.made - other.pause for other in known) / chars if chars else None
        return max(said.made, length(said.text) * (a_char or self._rate / CHARS_A_SECOND))

    def _take_spans(self) -> None:
        for span in self._text.spans[self._spans :]:
            self._places += _places(span.text, span.first, span.chars)
        self._spans = len(self._text.spans)


def _places(text: str, first: int, chars: Sequence[int]) -> Iterator[_Place]:
    """Each word's segment and its place in it, by characters."""
    found = [(match[0], match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    if not found:
        return
    begin, whole = found[0][1], max(1, found[-1][2] - found[0][1])
    edges = [0.0, *(edge / sum(chars) for edge in accumulate(chars))]
    segment = 0
    for word, start, stop in found:
        at, ends = (start - begin) / whole, (stop - begin) / whole
        while segment + 1 < len(chars) and at >= edges[segment + 1]:
            segment += 1
        width = edges[segment + 1] - edges[segment]
        yield _Place(
            word, first + segment, (at - edges[segment]) / width, min(1.0, (ends - edges[segment]) / width)
        )
