"""From the decode thread to the event loop: the chunks of one completion as an async iterator.

Leaving the iterator, in whatever way, cancels the generation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
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
        """Tell what the generation waited for and took: as far as it came, once, when its reader has no more need of it."""
        below, self._traced_below = self._traced_below, None
        if below is None:
            return
        ended_s = time.monotonic()
        facts: dict[str, dict[str, tracing.Attribute]] = {
            "queue": {},
            "prefill": {"prompt_tokens": len(self.completion.prompt)},
            "generate": {"frames": self._read, "finish_reason": self._finish_reason},
        }
        times = [self.submitted_s, self.started_s, self.first_frame_s]
        came = [at_s for at_s in times if at_s is not None]
        for name, since_s, until_s in zip(facts, came, [*came[1:], ended_s], strict=False):
            last = until_s == ended_s
            error = self._failure if last else None
            if last and error is None and self._finish_reason is None:
                facts[name]["outcome"] = "cancelled"
            tracing.record(name, since_s, until_s, below, error, **facts[name])

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
