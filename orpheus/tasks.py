"""Tasks that belong together: ended together, and waited for until they are gone.

Knows nothing of what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(*work: Awaitable[T]) -> T:
    """The result of whichever ends first, or what it raises; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await next(task for task in tasks if task in done)
    finally:
        await ended(tasks)


async def ended(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel all of them and wait until they are gone; how they ended is of no interest any more."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_seen)
    # Not `await task`: a caller that is itself cancelled, as starlette does again and again, would cancel the
    # cleaning up too, and the connection to tier 1 would stay open.
    if tasks:
        await asyncio.wait(tasks)


def _seen(task: asyncio.Future[Any]) -> None:
    """So that asyncio does not report its error as forgotten."""
    if not task.cancelled():
        task.exception()
