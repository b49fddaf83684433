from __future__ import annotations

import asyncio

import pytest

from orpheus.tasks import cancel_and_wait, first_of

pytestmark = pytest.mark.anyio


async def test_the_first_to_end_cancels_the_others() -> None:
    cleaned_up = []

    async def slow() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned_up.append("slow")
        return "slow"

    async def fast() -> str:
        return "fast"

    assert await first_of(slow(), fast()) == "fast"
    assert cleaned_up == ["slow"]


async def test_what_the_first_to_end_raises_is_raised() -> None:
    async def failing() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await first_of(asyncio.sleep(60), failing())


async def test_all_tasks_end_even_if_the_caller_is_cancelled_while_it_waits() -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    tasks = [asyncio.ensure_future(slow()) for _ in range(2)]
    await asyncio.sleep(0)
    ending = asyncio.create_task(cancel_and_wait(tasks))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait(tasks, timeout=1)
    assert all(task.cancelled() for task in tasks)
