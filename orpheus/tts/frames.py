"""Token numbers (the N of `<custom_token_N>`) as they arrive → codes of whole frames, flat, in slot order.

The slot comes from the token itself, not from a running count, so a token that is missing or out of place costs the
frame it stands in and nothing after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from orpheus.vocabulary import SLOTS, slot_and_code

LOOP_FRAMES = 48  # four seconds
LOOP_PERIOD = 8  # frames; the loops that models fall into are shorter than a second


class FrameAssembler:
    """Collects tokens into frames; counts the `frames` it completed and the `resyncs`, frames it had to drop."""

    def __init__(self) -> None:
        self.frames = 0
        self.resyncs = 0
        self._partial: list[int] = []
        # A broken frame counts once, not for every token skipped on the way to the next slot 0.
        self._in_sync = True

    def assemble(self, numbers: Iterable[int]) -> list[int]:
        """The codes of the frames that became complete, seven each. Numbers of other tokens are ignored."""
        complete: list[int] = []
        for number in numbers:
            position = slot_and_code(number)
            if position is None:
                continue
            slot, code = position
            if slot != len(self._partial):
                self.resyncs += self._in_sync
                self._in_sync = False
                self._partial.clear()
                if slot != 0:
                    continue
            self._in_sync = True
            self._partial.append(code)
            if len(self._partial) == SLOTS:
                complete += self._partial
                self.frames += 1
                self._partial.clear()
        return complete


class RepetitionDetector:
    """Detects a generation that loops: four seconds of nothing but the same few frames."""

    def __init__(self) -> None:
        self._latest: deque[tuple[int, ...]] = deque(maxlen=LOOP_FRAMES)

    def detect(self, codes: list[int]) -> bool:
        """Take the codes of whole frames; True if the latest frames are a loop."""
        for start in range(0, len(codes), SLOTS):
            self._latest.append(tuple(codes[start : start + SLOTS]))
        if len(self._latest) < LOOP_FRAMES:
            return False
        frames = list(self._latest)
        return any(frames[period:] == frames[:-period] for period in range(1, LOOP_PERIOD + 1))
