"""What a store can cost: a short wait. One that fails or hangs is left alone for a while, and requests go on without it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

READ_S = 0.3  # a request waits for an answer: as long as speech takes to begin without one
WRITE_S = 3.0  # nobody waits
REST_S = 5.0  # after a failure; then one request tries
LOG_EVERY_S = 60.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class Store(Protocol):
    """Bytes by key, bounded by itself. Anything may be raised; whoever waits may stop to."""

    name: str  # for a log line, without a password
    max_body_bytes: int

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, entry: bytes) -> None: ...

    async def remove(self, key: str) -> None: ...

    async def aclose(self) -> None: ...


class Guard:
    """One way to a store, reading or writing: a full disk can still be read."""

    def __init__(self, store: Store, work: str, within_s: float, on_error: Callable[[], None]) -> None:
        """`work`: "read" or "write". `on_error` is called for each request that got nothing because of a failure."""
        self._store = store
        self._work = work
        self._within_s = within_s
        self._on_error = on_error
        self._failing = False
        self._again_s = 0.0
        self._logged_s = float("-inf")

    async def run(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What `work` returns; None if it fails, takes too long, or is not worth trying yet."""
        if self._failing:
            if time.monotonic() < self._again_s:
                self._on_error()
                return None
            self._again_s = time.monotonic() + REST_S  # the others do not wait with this one
        try:
            async with asyncio.timeout(self._within_s):
                result = await work()
        except Exception as error:  # of a library, of what is no Redis: whatever it is, speech goes on
            self._fail(error)
            return None
        if self._failing:
            self._failing = False
            log.info("the cache can %s again at %s", self._work, self._store.name)
        return result

    def _fail(self, error: Exception) -> None:
        now_s = time.monotonic()
        self._failing, self._again_s = True, now_s + REST_S
        self._on_error()
        if now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            late = isinstance(error, TimeoutError)
            why = "no answer in time" if late else f"{type(error).__name__}: {error}"
            log.warning(
                "the cache cannot %s at %s (%.200s): requests go on without it; see ORPHEUS_CACHE",
                self._work,
                self._store.name,
                why,
            )
