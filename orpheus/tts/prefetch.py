"""Runs an async generator ahead of its reader, and runs it once more if the first attempt fails.

The buffer is unbounded, so a generator must be finite: the pipeline prefetches one segment at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from orpheus.errors import GenerationFailed

log = logging.getLogger(__name__)

T = TypeVar("T")
ATTEMPTS = 2


class Prefetch(Generic[T]):
    """Starts `attempt(0)` at once, in a task of its own; iterate over it to read the items.

    If it raises GenerationFailed before the reader has set `sent`, `attempt(1)` replaces it and the reader gets a None:
    everything it read so far is void. Other errors are raised to the reader.
    """

    def __init__(self, attempt: Callable[[int], AsyncGenerator[T]]) -> None:
        self.sent = False  # the reader has sent something on: it cannot be taken back
        self.made = False  # complete, without an error
        self._items: deque[T | None] = deque()
        self._changed = asyncio.Event()
        self._enough: Callable[[Collection[T | None]], bool] | None = None  # to wake the reader for
        self.task = asyncio.create_task(self._run(attempt))
        self.task.add_done_callback(lambda _: self._changed.set())

    async def _run(self, attempt: Callable[[int], AsyncGenerator[T]]) -> None:
        for number in range(ATTEMPTS):
            try:
                async with aclosing(attempt(number)) as items:
                    async for item in items:
                        self._items.append(item)
                        if self._enough is None or self._enough(self._items):
                            self._changed.set()
                self.made = True
                return
            except GenerationFailed as error:
                if self.sent or number + 1 == ATTEMPTS:
                    raise
                log.warning("generating again: %s", error)
                self._items.clear()
                self._items.append(None)

    async def __aiter__(self) -> AsyncGenerator[T | None]:
        while True:
            while self._items:
                yield self._items.popleft()
            if self.task.done():
                await self.task  # raises what ended it
                return
            self._changed.clear()
            await self._changed.wait()

    def take(self, most: int) -> list[T]:
        """At most so many items that can be read at once, up to where a failed attempt was replaced."""
        taken: list[T] = []
        while len(taken) < most and self._items and (item := self._items[0]) is not None:
            taken.append(item)
            self._items.popleft()
        return taken

    async def gathered(
        self, enough: Callable[[Collection[T | None]], bool], within_s: float | None = None
    ) -> None:
        """Return once the unread items are `enough`, or all of them, or after `within_s` seconds."""
        self._enough = enough
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while not self.task.done() and not enough(self._items):
                        self._changed.clear()
                        await self._changed.wait()
        finally:
            self._enough = None

    async def settled(self, within_s: float | None = None) -> None:
        """Return once the generator has ended, well or not, or after `within_s` seconds."""
        if within_s is None or within_s > 0:
            await asyncio.wait([self.task], timeout=within_s)
