"""How many utterances may be made at once, and how they end when the server stops.

Knows nothing of what an utterance is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orpheus.errors import AtCapacity, NotReady

log = logging.getLogger(__name__)

BREAK_S = 0.3  # a few frames: time to notice, and to say so where the protocol has a way


class Admission:
    """Used from one event loop."""

    def __init__(self, most: int, drain_s: float) -> None:
        self.most = most
        self._drain_s = drain_s
        self.taken = 0
        self._draining = self._broken = False

    @property
    def full(self) -> bool:
        return self.taken >= self.most

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of ORPHEUS_MAX_REQUESTS places; AtCapacity where there is none."""
        if self.full:
            raise AtCapacity(f"All {self.most} places are taken; try again in a moment.")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def check_open(self) -> None:
        """NotReady once the server stops: nothing new is begun."""
        if self._draining:
            raise NotReady("The server is stopping; try again in a moment.")

    def check_not_broken(self) -> None:
        """NotReady once what is under way has had its time."""
        if self._broken:
            raise NotReady("The server stopped before this was finished. Try again.")

    async def drain(self, hurry: Callable[[], bool]) -> None:
        """Take nothing new; what is under way gets ORPHEUS_DRAIN_S, or until `hurry`, and is then broken."""
        self._draining = True
        if self.taken:
            log.info("stopping: %d under way get %g s to end", self.taken, self._drain_s)
        await self._until_none(self._drain_s, hurry)
        self._broken = True
        await self._until_none(BREAK_S, hurry)

    async def _until_none(self, within_s: float, hurry: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + within_s
        while self.taken and time.monotonic() < ends_s and not hurry():  # noqa: ASYNC110 - a signal sets it
            await asyncio.sleep(0.02)
