from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from orpheus.errors import EngineError, GenerationFailed
from orpheus.tasks import cancel_and_wait
from orpheus.tts.prefetch import Prefetch

pytestmark = pytest.mark.anyio


def scripted(*attempts: list[int | Exception]) -> Callable[[int], AsyncGenerator[int]]:
    async def attempt(number: int) -> AsyncGenerator[int]:
        for item in attempts[number]:
            await asyncio.sleep(0)
            if isinstance(item, Exception):
                raise item
            yield item

    return attempt


async def test_items_come_in_order_and_ahead_of_the_reader() -> None:
    ahead = Prefetch(scripted([1, 2, 3]))
    await asyncio.sleep(0.01)
    assert [item async for item in ahead] == [1, 2, 3]


async def test_a_failed_attempt_nobody_read_is_replaced_without_a_trace() -> None:
    ahead = Prefetch(scripted([1, 2, GenerationFailed("no")], [7, 8]))
    await asyncio.sleep(0.01)
    assert [item async for item in ahead] == [None, 7, 8]


async def test_a_failed_attempt_that_was_not_sent_is_void_and_replaced() -> None:
    ahead = Prefetch(scripted([1, 2, GenerationFailed("no")], [7, 8]))
    assert [item async for item in ahead][-3:] == [None, 7, 8]


async def test_a_failed_attempt_that_was_sent_is_an_error() -> None:
    ahead = Prefetch(scripted([1, 2, GenerationFailed("no")], [7, 8]))
    heard = []
    with pytest.raises(GenerationFailed):
        async for item in ahead:
            ahead.sent = True
            heard.append(item)
    assert heard[0] == 1
    assert 7 not in heard


async def test_gathered_items_are_unread_and_can_be_replaced() -> None:
    ahead = Prefetch(scripted([1, 2, GenerationFailed("no")], [7, 8, 9]))
    await ahead.gathered(lambda items: len(items) >= 4)
    assert [item async for item in ahead] == [None, 7, 8, 9]


async def test_gathering_ends_with_the_items_or_the_time_limit() -> None:
    short = Prefetch(scripted([1, 2]))
    await short.gathered(lambda items: len(items) >= 3)
    assert [item async for item in short] == [1, 2]
    never = asyncio.Event()

    async def stalls(number: int) -> AsyncGenerator[int]:
        yield 1
        await never.wait()

    stalled = Prefetch(stalls)
    await stalled.gathered(lambda items: len(items) >= 3, 0.01)
    assert await anext(aiter(stalled)) == 1, "what there is, is not kept"
    await cancel_and_wait([stalled.task])


async def test_two_bad_attempts_are_an_error() -> None:
    ahead = Prefetch(scripted([GenerationFailed("no")], [GenerationFailed("no again")]))
    with pytest.raises(GenerationFailed, match="again"):
        _ = [item async for item in ahead]


async def test_other_errors_are_not_retried() -> None:
    ahead = Prefetch(scripted([EngineError("broken")], [1]))
    with pytest.raises(EngineError):
        _ = [item async for item in ahead]


async def test_cancelling_closes_the_running_attempt() -> None:
    closed = []

    async def endless(number: int) -> AsyncGenerator[int]:
        try:
            while True:
                yield number
                await asyncio.sleep(0.001)
        finally:
            await asyncio.sleep(0.01)
            closed.append(number)

    running = [Prefetch(endless), Prefetch(endless)]
    await asyncio.sleep(0.01)
    await cancel_and_wait([ahead.task for ahead in running])
    assert closed == [0, 0]
    await cancel_and_wait([])


async def test_what_is_there_is_taken_together_but_never_across_a_failed_attempt() -> None:
    ahead = Prefetch(scripted([1, 2, 3, 4, 5]))
    await asyncio.sleep(0.01)
    assert ahead.take(3) == [1, 2, 3]
    assert ahead.take(3) == [4, 5]
    assert ahead.take(3) == []
    replaced = Prefetch(scripted([1, GenerationFailed("no")], [7, 8]))
    await asyncio.sleep(0.01)
    assert replaced.take(3) == []  # a reader must learn first that all before is void
    assert [item async for item in replaced] == [None, 7, 8]
