"""Audio for a player that cannot be emptied, sent as it is heard, and what is told of it with it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from orpheus.playout import PlayoutClock


class Pacer:
    """Sendings in order; those of audio wait until the listener has no more than `lead_s` left to hear."""

    def __init__(self, lead_s: float) -> None:
        self._lead_s = lead_s
        self._waiting: deque[tuple[Callable[[], None], float]] = deque()
        self._wanted = asyncio.Event()
        self._playout = PlayoutClock()

    def put(self, send: Callable[[], None], audio_s: float = 0.0) -> None:
        """Call `send`, which sends `audio_s` seconds of audio, behind all that waits."""
        self._waiting.append((send, audio_s))
        self._wanted.set()

    def clear(self) -> None:
        """Send nothing of what waits."""
        self._waiting.clear()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            while self._waiting:
                send, audio_s = self._waiting[0]
                early_s = self._playout.buffered_s() - self._lead_s if audio_s else 0.0
                if early_s > 0:
                    await asyncio.sleep(early_s)
                    continue  # it may have been cleared
                self._waiting.popleft()
                self._playout.add(audio_s)
                send()
            self._wanted.clear()
