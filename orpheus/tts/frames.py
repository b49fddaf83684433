"""TokenChunk of `<custom_token_N>` as they arrive → codes of whole frames, flat, in slot order.

Knows nothing of audio. The slot comes from the token itself, not from a running count, so a token that is missing
or out of place costs the frame it stands in and nothing after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from orpheus.vocabulary import SLOTS, slot_and_code

LOOP_FRAMES = 48  # four seconds
LOOP_PERIOD = 8  # frames; the loops that models fall into are shorter than a second


class FrameAssembler:
    """Counts as it goes: `frames` given out, `resyncs` frames broken off."""

    def __init__(self) -> None:
        self.frames = 0
        self.resyncs = 0
        self._partial: list[int] = []
        self._in_step = (
            True  # a broken frame is counted once, not for each token skipped on the way to slot 0
        )

    def push(self, numbers: Iterable[int]) -> list[int]:
        """The codes of the frames that became whole, seven each. TokenChunk that are no audio token are passed over."""
        whole: list[int] = []
        for number in numbers:
            place = slot_and_code(number)
            if place is None:
                continue
            slot, code = place
            if slot != len(self._partial):
                self.resyncs += self._in_step
                self._in_step = False
                self._partial.clear()
                if slot != 0:
                    continue
            self._in_step = True
            self._partial.append(code)
            if len(self._partial) == SLOTS:
                whole += self._partial
                self.frames += 1
                self._partial.clear()
        return whole


class RepetitionDetector:
    """Tells when a generation has caught itself in a loop: four seconds of nothing but the same few frames."""

    def __init__(self) -> None:
        self._latest: deque[tuple[int, ...]] = deque(maxlen=LOOP_FRAMES)

    def push(self, codes: list[int]) -> bool:
        """Take the codes of whole frames; True where what came last is a loop."""
        for start in range(0, len(codes), SLOTS):
            self._latest.append(tuple(codes[start : start + SLOTS]))
        if len(self._latest) < LOOP_FRAMES:
            return False
        frames = list(self._latest)
        return any(frames[period:] == frames[:-period] for period in range(1, LOOP_PERIOD + 1))
