"""From the decode thread to the event loop: the chunks of one completion as an async iterator.

Leaving the iterator, in whatever way, cancels the generation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType

from orpheus import tracing
from orpheus.errors import OrpheusError
from orpheus.llama.completion import Completion, CompletionChunk, FinishReason

StreamItem = CompletionChunk | OrpheusError


class Stream:
    """The reader's end of one completion."""

    def __init__(
        self,
        completion: Completion,
        submitted_s: float,
        on_cancel: Callable[[Stream], None],
        on_resume: Callable[[], None],
        resume_below: int,
    ) -> None:
        """Call in the reader's event loop.

        `on_resume` is called once a paused stream's reader has no more than `resume_below` chunks left to read.
        """
        self.completion = completion
        self.submitted_s = submitted_s
        self.loop = asyncio.get_running_loop()
        self.started_s: float | None = None  # when its prompt was first read; written by the decode thread
        self.first_frame_s: float | None = None  # the same
        self.sent = 0  # chunks; written by the decode thread alone
        self.paused_since_s: float | None = None  # written by the decode thread: too much is unread
        self._read = 0  # chunks; written by the event loop alone
        self._on_cancel = on_cancel
        self._on_resume = on_resume
        self._resume_below = resume_below
        self._items: deque[StreamItem] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._finish_reason: FinishReason | None = None
        self._failure: OrpheusError | None = None
        self._traced_below = tracing.here()

    @property
    def unread(self) -> int:
        """Chunks sent and not read yet."""
        return self.sent - self._read

    def put(self, item: StreamItem) -> None:
        """Called in the event loop, on behalf of the decode thread."""
        self._items.append(item)
        self._changed.set()

    def cancel(self) -> None:
        """Stop the generation and the iteration. Idempotent, from any thread; the sequence is freed within a step."""
        self._on_cancel(self)
        self._trace()
        if not self._ended:
            self._ended = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._changed.set)

    def _trace(self) -> None:
        """Tell, once, where the time went: each phase from its beginning to that of the next, as far as it came."""
        below, self._traced_below = self._traced_below, None
        if below is None:
            return
        cancelled = self._finish_reason is None and self._failure is None
        phases: list[tuple[str, float | None, dict[str, tracing.Attribute]]] = [
            ("queue", self.submitted_s, {}),
            ("prefill", self.started_s, {"prompt_tokens": len(self.completion.prompt)}),
            ("generate", self.first_frame_s, {"frames": self._read, "finish_reason": self._finish_reason}),
        ]
        begun = [(name, since_s, facts) for name, since_s, facts in phases if since_s is not None]
        for (name, since_s, facts), (_, until_s, _) in pairwise(begun):
            tracing.record(name, since_s, until_s, below, **facts)
        name, since_s, facts = begun[-1]
        facts["outcome"] = "cancelled" if cancelled else None
        tracing.record(name, since_s, time.monotonic(), below, self._failure, **facts)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> CompletionChunk:
        """The next chunk. Raises the engine's error if the generation failed."""
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            try:
                await self._changed.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._ended:
            raise StopAsyncIteration
        item = self._items.popleft()
        self._read += 1
        if self.paused_since_s is not None and self.unread <= self._resume_below:
            self._on_resume()
        if isinstance(item, OrpheusError):
            self._ended, self._failure = True, item
            raise item
        if item.finish_reason is not None:
            self._ended, self._finish_reason = True, item.finish_reason
        return item

    async def aclose(self) -> None:
        self.cancel()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
