"""When frames of all streams arrived → how much audio a new listener should have in hand before it starts.

Knows nothing of sound or tokens. On an idle machine that is nothing: frames come many times faster than they are
played. Under load the first frame, 85 ms, may be over before the next is there; a start a little later is heard
as nothing, a hole is.
"""

from __future__ import annotations

import time

CUSHION_FRAMES = 3  # frames that may be waited for without a hole
STALE_S = 1.0  # without a frame from anybody, what was measured says nothing any more
LONGEST_S = 0.2  # more between two frames is a reader who paused, not the pace of the machine
WEIGHT = 0.1  # of the newest interval


class Pace:
    """Shared by all streams of a service; used by one event loop."""

    def __init__(self) -> None:
        self._interval_s = 0.0
        self._latest_s = 0.0

    def frames(self, count: int, after_s: float) -> None:
        """A stream got `count` frames, `after_s` seconds after the ones before them."""
        now = time.monotonic()
        if now - self._latest_s > STALE_S:
            self._interval_s = 0.0
        self._latest_s = now
        self._interval_s += WEIGHT * (min(after_s / count, LONGEST_S) - self._interval_s)

    def cushion_s(self) -> float:
        """Seconds of audio to have before the first of it is sent."""
        if time.monotonic() - self._latest_s > STALE_S:
            return 0.0
        return CUSHION_FRAMES * self._interval_s
