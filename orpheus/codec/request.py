"""One push on its way from an event loop to the decoding thread and back.

Knows nothing of decoding.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import EngineError

if TYPE_CHECKING:
    from orpheus.codec.service import CodecStream


@dataclass(eq=False)
class DecodeRequest:
    """One push or finish on its way. Everything but `waiting` belongs to the decoding thread once queued."""

    stream: CodecStream
    codes: NDArray[np.int64]
    last: bool
    loop: asyncio.AbstractEventLoop
    waiting: asyncio.Future[None]

    def end(self, error: EngineError | None = None) -> None:
        """Wake the caller, from any thread. A caller that was cancelled, or whose loop is gone, is passed over."""

        def wake() -> None:
            if self.waiting.done():
                return
            if error is None:
                self.waiting.set_result(None)
            else:
                self.waiting.set_exception(error)

        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(wake)
