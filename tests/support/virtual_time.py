"""An event loop whose clock jumps to the next timer instead of waiting for it, so that no test depends on real time.

    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualTimeLoop}

The code under test must take its time from the loop (`loop.time()`) and run in it alone: a thread or another process
would not keep up. Sockets between two ends in the same loop work.
"""

from __future__ import annotations

import asyncio
import selectors

GRACE_S = 0.001  # of real time, for bytes on their way through the loopback interface


class _JumpingSelector(selectors.DefaultSelector):
    """Where nothing is ready, the timeout passes at once."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout:
            return super().select(timeout)
        ready = super().select(min(timeout, GRACE_S))
        if not ready:
            self.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s
