"""How long streams waited for what they heard → how much audio a new listener should have in hand before it starts.

Knows nothing of sound or tokens. On an idle machine that is nothing: frames come many times faster than they are
played. Under load the first frame, 85 ms, may be over before the next is there; a start a little later is heard
as nothing, a hole is.
"""

from __future__ import annotations

import math
import time

from orpheus.vocabulary import FRAME_S

PREBUFFER_FRAMES = 6  # frames that may be waited for without a hole
STALE_S = 1.0  # without a frame from anybody, what was measured says nothing any more
MEMORY_S = 1.0  # what is older hardly counts: a burst of new streams is over
LONGEST_S = 0.5  # a longer wait is a reader who paused, or a broken tier 1, not the pace of the machine
DEVIATIONS = 4  # above the mean: waits beyond them are rare. As TCP expects its answers, RFC 6298


class DelayEstimator:
    """What waits of one kind last, in seconds: their mean and mean deviation over the last MEMORY_S."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self.deviation_s = 0.0
        self._count = 0
        self._latest_s = 0.0

    def add(self, wait_s: float, now_s: float, count: int = 1) -> None:
        """One wait, which was for `count` of what is waited for."""
        wait_s = min(wait_s, LONGEST_S)
        self._count += 1
        # By time, not by number: many streams would make it forget within milliseconds.
        weight = max(1 / self._count, 1 - math.exp((self._latest_s - now_s) / MEMORY_S))
        self._latest_s = now_s
        # A first wait may be half off.
        error_s = abs(wait_s - count * self.mean_s) if self._count > 1 else wait_s / 2
        self.mean_s += weight * (wait_s / count - self.mean_s)
        self.deviation_s += weight * (error_s - self.deviation_s)

    @property
    def long_s(self) -> float:
        """What hardly any wait is longer than."""
        return self.mean_s + DEVIATIONS * self.deviation_s


class PrebufferEstimator:
    """Shared by all streams of a service; used by one event loop."""

    def __init__(self, judged_s: float = 0.0) -> None:
        """`judged_s` seconds of each segment but the first are held until its loudness is known."""
        self._judged_s = judged_s
        self._frames = DelayEstimator()  # from one frame of a stream to its next
        self._starts = DelayEstimator()  # from asking for a segment to its first samples
        self._latest_s = 0.0

    def frames(self, count: int, after_s: float) -> None:
        """A stream got samples of `count` frames, `after_s` seconds after the ones before them."""
        now_s = self._now_s()
        self._frames.add(after_s, now_s, count)

    def started(self, after_s: float) -> None:
        """A segment was heard of for the first time `after_s` seconds after it was asked for."""
        now_s = self._now_s()
        self._starts.add(after_s, now_s)

    def start_s(self) -> float:
        """Seconds from asking for a further segment to what can be heard of it, hardly ever more."""
        if self._stale:
            return 0.0
        return self._starts.long_s + self._judged_s * self._frames.mean_s / FRAME_S

    def prebuffer_s(self, segment_s: float | None = None) -> float:
        """Seconds of audio to have before the first of it is sent.

        Where the audio lasts `segment_s` seconds and a further segment will be asked for when it is made, that one's
        start is waited for too, with what is gained until then: a segment is made sooner than it is heard.
        """
        if self._stale:
            return 0.0
        frames_s = PREBUFFER_FRAMES * self._frames.mean_s + DEVIATIONS * self._frames.deviation_s
        if segment_s is None:
            return frames_s
        slow_s = self._frames.mean_s + self._frames.deviation_s
        gained_s = segment_s * (1 - slow_s / FRAME_S)
        return max(frames_s, min(self.start_s() - gained_s, segment_s))

    def _now_s(self) -> float:
        """The time; what was measured before a time without frames is forgotten."""
        if self._stale:
            self._frames, self._starts = DelayEstimator(), DelayEstimator()
        self._latest_s = time.monotonic()
        return self._latest_s

    @property
    def _stale(self) -> bool:
        return time.monotonic() - self._latest_s > STALE_S
