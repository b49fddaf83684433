"""Waits for what another thread, task or process does, by polling up to a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.005


def eventually(condition: Callable[[], object], within_s: float = 15) -> None:
    """Return once `condition` holds; fail after `within_s` seconds, which a busy machine must not reach."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(POLL_S)


async def until(condition: Callable[[], bool], within_s: float = 15) -> None:
    """`eventually`, on an event loop."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - whatever changes it cannot set an event
            await asyncio.sleep(POLL_S)


async def until_still(count: Callable[[], int]) -> None:
    """Wait until `count` has not changed for half a second."""
    before = -1
    while count() != before:
        before = count()
        await asyncio.sleep(0.5)
