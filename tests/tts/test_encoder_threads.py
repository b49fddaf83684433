from __future__ import annotations

import asyncio
import threading
import time

import pytest

from orpheus.errors import NotReady
from orpheus.tts.encoder_threads import THREADS, TOGETHER, EncoderThreads

pytestmark = pytest.mark.anyio


async def test_each_caller_gets_the_bytes_of_its_own_call() -> None:
    threads = EncoderThreads()
    numbers = range(100)
    found = await asyncio.gather(*(threads.run(lambda number=number: bytes([number])) for number in numbers))
    assert found == [bytes([number]) for number in numbers]


async def test_calls_run_off_the_event_loop_and_no_more_than_a_few_at_once() -> None:
    threads = EncoderThreads()
    running, most = 0, 0
    lock = threading.Lock()

    def call() -> bytes:
        nonlocal running, most
        assert threading.current_thread() is not threading.main_thread()
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return b""

    await asyncio.gather(*(threads.run(call) for _ in range(50)))
    assert most <= THREADS


async def test_a_call_that_fails_is_the_failure_of_its_caller_alone() -> None:
    threads = EncoderThreads()

    def fail() -> bytes:
        raise ValueError("a broken encoder")

    calls = [threads.run(fail if number == 3 else lambda: b"ok") for number in range(6)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(each) for each in found if isinstance(each, ValueError)] == ["a broken encoder"]
    assert found.count(b"ok") == 5
    assert await threads.run(lambda: b"and on") == b"and on"


async def test_a_caller_that_is_cancelled_keeps_nobody_waiting() -> None:
    threads = EncoderThreads()
    held = threading.Event()

    def wait() -> bytes:
        held.wait(5)
        return b""

    waiting = [asyncio.create_task(threads.run(wait)) for _ in range(4 * THREADS)]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    held.set()
    assert await asyncio.wait_for(threads.run(lambda: b"next"), 2) == b"next"


async def test_once_closed_its_threads_end_and_nobody_waits_for_ever() -> None:
    before = set(threading.enumerate())
    threads = EncoderThreads()
    held = threading.Event()

    def wait() -> bytes:
        held.wait(5)
        return b"done"

    calls = [asyncio.create_task(threads.run(wait)) for _ in range(THREADS * TOGETHER + 1)]
    await asyncio.sleep(0.01)
    started = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("orpheus-encode")
    ]
    assert len(started) == THREADS
    threads.close()
    held.set()
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2)
    assert results[:-1] == [b"done"] * (THREADS * TOGETHER)
    assert isinstance(results[-1], asyncio.CancelledError)
    with pytest.raises(NotReady):
        await threads.run(lambda: b"too late")
    for thread in started:
        await asyncio.to_thread(thread.join, 2)
    assert not any(thread.is_alive() for thread in started)
