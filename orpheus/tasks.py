"""asyncio tasks that end together: the first to finish wins, or all are cancelled and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(*awaitables: Awaitable[T]) -> T:
    """Return or raise what the first to finish does; the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await next(task for task in tasks if task in done)
    finally:
        await cancel_and_wait(tasks)


async def cancel_and_wait(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel all tasks and wait until they have finished, whatever their results or errors."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_retrieve_exception)
    # Not `await task`: if the caller is cancelled meanwhile, as starlette does repeatedly, that would cancel the
    # task's cleanup as well, and its connection to tier 1 would stay open.
    if tasks:
        await asyncio.wait(tasks)


def _retrieve_exception(task: asyncio.Future[Any]) -> None:
    """Keeps asyncio from reporting that it was never retrieved."""
    if not task.cancelled():
        task.exception()
