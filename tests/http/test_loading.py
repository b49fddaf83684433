"""Loading in the background: waiting for it, its failures, and its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from orpheus.errors import EngineError, NotReady, WeightsError
from orpheus.http.loading import BackgroundLoad

pytestmark = pytest.mark.anyio


class Loadable:
    """Something whose load waits until it is released, and that counts how often it was closed."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.closed = 0
        self.loading = BackgroundLoad(self.load, Loadable.aclose, "voice")

    def load(self) -> Loadable:
        self.release.wait(10)
        return self

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


def failing(error: Exception) -> BackgroundLoad[Loadable]:
    def load() -> Loadable:
        raise error

    return BackgroundLoad(load, Loadable.aclose, "voice")


async def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


async def test_before_it_is_loaded_it_is_not_ready_and_can_be_awaited() -> None:
    thing = Loadable()
    async with thing.loading as loading:
        with pytest.raises(NotReady, match="The voice is loading"):
            loading.ready()
        given_up = asyncio.create_task(loading.wait())
        waiting = asyncio.create_task(loading.wait())
        await asyncio.sleep(0)
        given_up.cancel()  # which must not end the load
        thing.release.set()
        assert await waiting is thing
        assert loading.ready() is thing
        assert loading.failure is None
        assert thing.closed == 0
    await thing.loading.aclose()
    assert thing.closed == 1


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (WeightsError("x.gguf is not a GGUF file."), WeightsError, "x.gguf is not a GGUF file"),
        (ZeroDivisionError("a bug"), EngineError, "ZeroDivisionError: a bug"),
    ],
)
async def test_a_failure_is_kept_with_its_reason(
    error: Exception, kind: type[Exception], reason: str
) -> None:
    async with failing(error) as loading:
        with pytest.raises(kind, match=reason):
            await loading.wait()
        with pytest.raises(NotReady, match=f"The voice could not be loaded: {reason}"):
            loading.ready()
        assert isinstance(loading.failure, kind)


async def test_what_loads_after_the_end_is_closed_and_delays_nothing() -> None:
    thing = Loadable()
    async with thing.loading:
        pass
    assert thing.closed == 0
    thing.release.set()
    await until(lambda: thing.closed == 1)
