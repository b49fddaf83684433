"""How long streams had to wait for audio lately → how much a new listener should have in hand before playout starts.

A lone listener of an idle machine needs nothing: frames arrive many times faster than they are played. Under load the
first frame, 85 ms, may be over before the next arrives. A start a little later goes unnoticed; a gap does not.

What was measured holds for as many streams as there were. For more, a frame is expected to take longer in proportion,
which is more than it will; and those who come together before anything was measured wait for their second samples.
"""

from __future__ import annotations

import math
import time

from orpheus.vocabulary import FRAME_S

NEXT_FRAMES = 2  # from the first samples, which the codec approximates from two, to the next, from four
NEXT_S = 0.68 * FRAME_S  # of audio in those: exact samples trail by 2.32 frames
# A listener gains what a frame plays longer than the next takes, and loses what it is late. The sum of that, a random
# walk, falls by more than s seconds with the probability exp(-2 · gain · s / variance): 1 in 1,000 for a mean deviation
# of 0.8 standard deviations and s = LATE · deviation² / gain.
LATE = math.log(1000) * 1.25**2 / 2
# Of what it plays, how long a frame takes at most on a machine with all the streams that it admits, until it is measured.
CARRIED = 0.75
STALE_S = 1.0  # without a frame of any stream, the measurements no longer apply
MEMORY_S = 1.0  # older delays hardly count: a burst of new streams is over
LONGEST_S = 0.5  # a longer delay is a reader that paused or a broken tier 1, not the pace of the machine
DEVIATIONS = 4  # above the mean: delays beyond that are rare. As TCP estimates its round trips, RFC 6298


class DelayEstimator:
    """Delays of one kind, in seconds: their mean and mean deviation over the last MEMORY_S."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self.deviation_s = 0.0
        self.streams = 0.0  # that shared the machine, in the mean
        self._count = 0
        self._latest_s = 0.0

    def add(self, delay_s: float, now_s: float, count: int = 1, streams: int = 1) -> None:
        """One delay in seconds, which covered `count` items at once, while there were `streams`."""
        delay_s = min(delay_s, LONGEST_S)
        self._count += 1
        # Weighted by time, not by number: with many streams it would forget within milliseconds.
        weight = max(1 / self._count, 1 - math.exp((self._latest_s - now_s) / MEMORY_S))
        self._latest_s = now_s
        # The first delay may be off by half.
        error_s = abs(delay_s - count * self.mean_s) if self._count > 1 else delay_s / 2
        self.mean_s += weight * (delay_s / count - self.mean_s)
        self.streams += weight * (streams - self.streams)
        self.deviation_s += weight * (error_s - self.deviation_s)

    @property
    def long_s(self) -> float:
        """Hardly any delay is longer than this."""
        return self.mean_s + DEVIATIONS * self.deviation_s


class PrebufferEstimator:
    """Shared by all streams of a service; used from one event loop."""

    def __init__(self, leveling_s: float = 0.0) -> None:
        """`leveling_s` seconds of every segment but the first are held until their loudness is known."""
        self.streams = 0  # that are being generated now; counted by the pipeline
        self._leveling_s = leveling_s
        self._frames = DelayEstimator()  # from one frame of a stream to its next
        self._starts = DelayEstimator()  # from requesting a segment to its first samples
        self._latest_s = 0.0

    def frames(self, count: int, after_s: float) -> None:
        """A stream got the samples of `count` frames, `after_s` seconds after the ones before them."""
        now_s = self._now_s()
        self._frames.add(after_s, now_s, count, max(1, self.streams))

    def started(self, after_s: float) -> None:
        """The first samples of a segment arrived `after_s` seconds after it was requested."""
        now_s = self._now_s()
        self._starts.add(after_s, now_s)

    def start_s(self) -> float:
        """Seconds from requesting a further segment to its first audio, hardly ever more."""
        if self._stale:
            return 0.0
        return self._starts.long_s + self._leveling_s * self._frames.mean_s / FRAME_S

    def prebuffer_s(self, segment_s: float = 0.0, *, last: bool = False) -> float:
        """Seconds that the audio in hand should last once it is sent, or part of which should have passed before.

        The segment lasts `segment_s`. Unless it is the `last`, another is requested once it is complete: its start must
        be outlasted too, less what is gained meanwhile, since a segment is generated faster than it plays.
        """
        if self._stale:
            return 0.0
        measured = self._frames
        if not measured.streams and self.streams > 1:  # they came together to an idle machine
            return LONGEST_S
        mean_s, deviation_s = measured.mean_s, measured.deviation_s
        of_all_s = min(mean_s * self.streams / max(1.0, measured.streams), CARRIED * FRAME_S)
        if of_all_s > mean_s:  # more streams than were measured
            mean_s, deviation_s = of_all_s, deviation_s * of_all_s / mean_s
        next_s = max(NEXT_FRAMES * mean_s, (NEXT_FRAMES + 1) * mean_s - NEXT_S)
        frames_s = next_s + _late_s(mean_s, deviation_s)
        if last:  # of a machine that is slower than playout, what is lost on the way
            return frames_s + segment_s * max(0.0, mean_s / FRAME_S - 1)
        slow_s = mean_s + deviation_s
        gained_s = segment_s * (1 - slow_s / FRAME_S)
        return max(frames_s, min(self.start_s() - gained_s, segment_s))

    def _now_s(self) -> float:
        """The time; measurements from before a pause without frames are dropped."""
        if self._stale:
            self._frames, self._starts = DelayEstimator(), DelayEstimator()
        self._latest_s = time.monotonic()
        return self._latest_s

    @property
    def _stale(self) -> bool:
        return time.monotonic() - self._latest_s > STALE_S


def _late_s(mean_s: float, deviation_s: float) -> float:
    """By how much the frames to come may fall behind in all, hardly ever more: little where much is gained."""
    gain_s = FRAME_S - mean_s
    return min(LONGEST_S, LATE * deviation_s**2 / gain_s) if gain_s > 0 else LONGEST_S
