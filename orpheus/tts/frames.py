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
        self._latest: deque[tuple[int, ...]] = deque(maxlen=LOOP_PERIOD)
        self._repeats = [0] * LOOP_PERIOD  # frames in a row that equal the one 1, 2, … frames before them

    def detect(self, codes: list[int]) -> bool:
        """Take the codes of whole frames; True if the latest frames are a loop."""
        for start in range(0, len(codes), SLOTS):
            frame = tuple(codes[start : start + SLOTS])
            for index, earlier in enumerate(reversed(self._latest)):
                self._repeats[index] = self._repeats[index] + 1 if frame == earlier else 0
            self._latest.append(frame)
        return any(repeats + period >= LOOP_FRAMES for period, repeats in enumerate(self._repeats, 1))
