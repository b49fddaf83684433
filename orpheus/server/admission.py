"""Limits how many utterances are spoken at once, and brings them to an end when the server shuts down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orpheus.bookings import Bookings, UsualTime
from orpheus.errors import AtCapacity, NotReady

log = logging.getLogger(__name__)

INTERRUPTED = "The server shut down before this was finished. Try again."
BREAK_S = 0.3  # a few frames: until the utterances in progress notice that their time is over
SEND_S = 0.2  # until their ends or errors are sent: then the server closes all connections


class Admission:
    """Counts the utterances in progress. Used from one event loop."""

    def __init__(self, limit: int, drain_s: float) -> None:
        """At most `limit` utterances at once; when draining, they get `drain_s` seconds to finish."""
        self.limit = limit
        self.usual = UsualTime()  # of an utterance, busy or not
        self._since_s: list[float] = []  # when the utterances in progress began
        self._bookings = Bookings(limit)
        self._drain_s = drain_s
        self._draining = self._drained = False

    @property
    def active(self) -> int:
        return len(self._since_s)

    @property
    def full(self) -> bool:
        return self.active >= self.limit

    @property
    def draining(self) -> bool:
        return self._draining

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts one utterance while the body runs. AtCapacity if the limit is reached."""
        self.check_room()
        began_s = time.monotonic()
        self._since_s.append(began_s)
        try:
            yield
            # Not if it failed, which says nothing of the pace.
            took_s = time.monotonic() - began_s
            self.usual.add(took_s)
            self._bookings.returned(took_s, self.active)
        finally:
            self._since_s.remove(began_s)

    def check_room(self) -> None:
        """AtCapacity, with a time of its own to try again, if the limit is reached."""
        if self.full:
            now_s = time.monotonic()
            raise AtCapacity(
                f"The server is at its limit of {self.limit} requests; try again in a moment.",
                retry_after_s=self._bookings.book([now_s - since_s for since_s in self._since_s]),
            )

    def check_open(self) -> None:
        """NotReady once draining has begun: nothing new starts."""
        if self._draining:
            raise NotReady("The server is shutting down; try again in a moment.")

    def check_not_drained(self) -> None:
        """NotReady once the time to finish is over."""
        if self._drained:
            raise NotReady(INTERRUPTED)

    async def drain(self, hurry: Callable[[], bool]) -> None:
        """Admit nothing new; interrupt utterances in progress after `drain_s` seconds, or once `hurry` returns True."""
        self._draining = True
        if self.active:
            log.info("shutting down: %d in progress get %g s to finish", self.active, self._drain_s)
            await self._wait_until_idle(self._drain_s, hurry)
            self._drained = True
            await self._wait_until_idle(BREAK_S, hurry)
            if not hurry():
                await asyncio.sleep(SEND_S)

    async def _wait_until_idle(self, limit_s: float, hurry: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + limit_s
        while self.active and time.monotonic() < ends_s and not hurry():  # noqa: ASYNC110 - a signal sets it
            await asyncio.sleep(0.02)
