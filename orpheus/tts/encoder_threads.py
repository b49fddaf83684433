"""Encoders beside the event loop: calls of many streams go to a thread together, and their bytes come back together.

With a call of `asyncio.to_thread` for each piece, half of what tier 2 spent on a frame of PCM was waking a thread and then
the event loop (AMD EPYC, 2026-11-30).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from orpheus.errors import NotReady

THREADS = 2  # as many as are busy while the event loop is: it too needs a core
TOGETHER = 8  # calls, or the first of them would wait long for its bytes: a call is about 0.3 ms


class _Call(NamedTuple):
    run: Callable[[], bytes]
    done: asyncio.Future[bytes]


class EncoderThreads:
    """Runs calls off the event loop, in the order in which they come. Used from one event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, "orpheus-encode")
        self._waiting: deque[_Call] = deque()
        self._busy = 0  # threads
        self._scheduled = False
        self._closed = False

    async def run(self, call: Callable[[], bytes]) -> bytes:
        """What `call` returns or raises. If the caller is cancelled, the call may still run."""
        if self._closed:
            raise NotReady("The server is shutting down.")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bytes] = loop.create_future()
        self._waiting.append(_Call(call, done))
        if self._busy < THREADS and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._start, loop)  # after whatever else asks in this turn
        return await done

    def close(self) -> None:
        """Ends the threads once their calls are done; callers that wait for a thread are cancelled."""
        self._closed = True
        for call in self._waiting:
            call.done.cancel()
        self._waiting.clear()
        self._executor.shutdown(wait=False)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        while self._waiting and self._busy < THREADS:
            calls = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
            self._busy += 1
            self._executor.submit(self._run, loop, calls)

    def _run(self, loop: asyncio.AbstractEventLoop, calls: list[_Call]) -> None:
        results: list[bytes | BaseException] = []
        for call in calls:
            try:
                results.append(call.run())
            except BaseException as error:
                results.append(error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._finish, loop, calls, results)

    def _finish(
        self, loop: asyncio.AbstractEventLoop, calls: list[_Call], results: list[bytes | BaseException]
    ) -> None:
        self._busy -= 1
        for call, result in zip(calls, results, strict=True):
            if call.done.done():
                continue  # cancelled
            if isinstance(result, BaseException):
                call.done.set_exception(result)
            else:
                call.done.set_result(result)
        self._start(loop)
