"""Chunks from the decode thread → an async iterator in the event loop, and word back when the reader leaves.

Knows nothing of llama.cpp, scheduling or HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from orpheus.errors import OrpheusError
from orpheus.sampling import Sampling

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """A request, checked before any work.

    `constrained`: draw audio tokens only, each from the slot that is due. `stop_ids`: ids that end the stream
    beside end-of-speech, which always does.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    constrained: bool = True
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class CompletionChunk:
    """A frame of 7 tokens; perhaps none on the last."""

    ids: tuple[int, ...]
    numbers: tuple[int, ...]  # the N of <custom_token_N>, for those ids that have one
    finish_reason: FinishReason | None


Item = CompletionChunk | OrpheusError


class Stream:
    """The reader's end of one completion. Leaving it, by any way, cancels the generation."""

    def __init__(
        self,
        completion: Completion,
        submitted_at: float,
        on_cancel: Callable[[Stream], None],
        on_room: Callable[[], None],
        low_water: int,
    ) -> None:
        self.completion = completion
        self.submitted_at = submitted_at
        self.loop = asyncio.get_running_loop()
        self.sent = 0  # chunks, counted by the decode thread alone
        self.paused_at: float | None = None  # set by the decode thread when too much is unread
        self._taken = 0  # chunks, counted by the event loop alone
        self._on_cancel = on_cancel
        self._on_room = on_room
        self._low_water = low_water
        self._items: deque[Item] = deque()
        self._news = asyncio.Event()
        self._ended = False

    @property
    def unread(self) -> int:
        """Chunks sent and not read."""
        return self.sent - self._taken

    def put(self, item: Item) -> None:
        """Called in the event loop, on behalf of the decode thread."""
        self._items.append(item)
        self._news.set()

    def cancel(self) -> None:
        """Stop the generation and the iteration. Idempotent, from any thread; the slot is free within a step."""
        self._on_cancel(self)
        if not self._ended:
            self._ended = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._news.set)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> CompletionChunk:
        """The next chunk. Raises the engine's error where generation failed."""
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            try:
                await self._news.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._ended:
            raise StopAsyncIteration
        item = self._items.popleft()
        self._taken += 1
        if self.paused_at is not None and self.unread <= self._low_water:
            self._on_room()
        if isinstance(item, OrpheusError):
            self._ended = True
            raise item
        if item.finish_reason is not None:
            self._ended = True
        return item

    async def aclose(self) -> None:
        self.cancel()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
