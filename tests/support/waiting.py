"""Waits for what another thread, task or process does, by polling up to a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

POLL_S = 0.005

T = TypeVar("T")


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


def come_within(seconds: float, next: Callable[[float], T]) -> list[T]:
    """What `next` gives, which raises TimeoutError once nothing has come for as long as it is told."""
    come = []
    ends_s = time.monotonic() + seconds
    while (left_s := ends_s - time.monotonic()) > 0:
        try:
            come.append(next(left_s))
        except TimeoutError:
            break
    return come


async def until_still(count: Callable[[], int]) -> None:
    """Wait until `count` has not changed for half a second."""
    before = -1
    while count() != before:
        before = count()
        await asyncio.sleep(0.5)


class Turns:
    """How often another task had its turn."""

    count = 0


@contextlib.asynccontextmanager
async def counting_turns() -> AsyncIterator[Turns]:
    """Counts the turns that the event loop gives to others while the body runs."""
    turns = Turns()

    async def others() -> None:
        while True:
            await asyncio.sleep(0)
            turns.count += 1

    waiting = asyncio.create_task(others())
    try:
        yield turns
    finally:
        waiting.cancel()
