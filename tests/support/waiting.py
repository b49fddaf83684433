"""Waiting for a condition instead of a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], within_s: float = 15) -> None:
    """Wait for `condition`, without an event loop; fail the test after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)


async def until(condition: Callable[[], bool], within_s: float = 5) -> None:
    """Wait for `condition`; fail the test after `within_s`."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - whatever changes it cannot set an event
            await asyncio.sleep(0.005)


async def until_still(count: Callable[[], int]) -> None:
    """Wait until `count` has not changed for half a second."""
    before = -1
    while count() != before:
        before = count()
        await asyncio.sleep(0.5)
