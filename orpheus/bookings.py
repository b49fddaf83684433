"""When a client that finds a service full should ask again.

Clients told the same time come back together, and most of them in vain; OpenAI's SDK gives up after two retries. So
each gets a time of its own: the next at which a place is expected to be free and nobody else was told to come.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Hashable, Sequence

FIRST_GUESS_S = 8.0  # how long a place is held, before it is known
LATEST_S = 60.0  # OpenAI's older SDKs ignore a longer wait
MEMORY = 10  # the mean follows about so many
# Between two bookings, relative to the usual pace, as some places are held for longer than usual. Of 32 clients at once
# that retry twice, with 8 places held for 0.5 to 1.5 times the mean, 1 in 100 fails with 1, 1 in 1,000 with 1.25, and
# none of 1,920 with 1.5 (simulated, 60 runs each, 2026-11-30).
SLACK = 1.5
# Places that are held for x on average, and counting, will in the end be held for at least about so many times x.
IN_THE_END = 1.5


class UsualTime:
    """A running mean of how long a place is held, in seconds."""

    def __init__(self) -> None:
        self.seconds = FIRST_GUESS_S
        self._seen = 0

    def add(self, held_s: float) -> None:
        self._seen = min(self._seen + 1, MEMORY)
        self.seconds += (held_s - self.seconds) / self._seen


class Bookings:
    """The bookings of a service with so many places. Nothing is kept free: a booking only spreads those who return."""

    def __init__(self, places: int, usual: UsualTime | None = None) -> None:
        self._usual = usual or UsualTime()
        self._places = places
        self._last_s = 0.0  # the latest time booked
        self._booked: dict[Hashable, float] = {}

    def returned(self, held_s: float, taken: int) -> None:
        """One of `taken` places was given back. Only a busy service is a measure: alone, everything is faster."""
        if 2 * taken >= self._places:
            self._usual.add(held_s)

    def book(self, held_s: Sequence[float], who: Hashable = None) -> float:
        """Seconds until a client that was turned away should ask again, at most LATEST_S.

        `held_s` says for how long each place has been held; there is at least one. A client that has a name, `who`, and
        asks before its time keeps its booking.
        """
        now_s = time.monotonic()
        self._booked = {name: at_s for name, at_s in self._booked.items() if at_s > now_s}
        if who in self._booked:
            return self._booked[who] - now_s
        usual_s = max(self._usual.seconds, IN_THE_END * statistics.fmean(held_s))
        pace_s = usual_s / self._places
        soonest_s = max(usual_s - max(held_s), pace_s / 2)
        at_s = max(now_s + soonest_s, self._last_s + SLACK * pace_s)
        if at_s <= now_s + LATEST_S:
            self._last_s = at_s
        else:  # more than can be served by then
            at_s = now_s + random.uniform(LATEST_S / 2, LATEST_S)
        if who is not None:
            self._booked[who] = at_s
        return at_s - now_s
