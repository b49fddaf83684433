"""What one utterance cost, what of it was made, and how much of that its listener has still to hear.

Knows nothing of how it is made: filled in by the pipeline while it runs, read by metrics, timings and the API.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from orpheus.codec.pcm import Pcm

T = TypeVar("T")


@dataclass
class Said:
    """One segment on its way to the listener; counts are of samples."""

    text: str
    begins: int | None = None  # the sample of the utterance it begins at, once it is heard
    made: int = 0
    complete: bool = False
    pause: int = 0  # of silence at its end, once it is complete


@dataclass
class Usage:
    """What a request cost and how it went; filled in while it is spoken."""

    prompt_tokens: int = 0
    audio_tokens: int = 0
    samples: int = 0
    said: list[Said] = field(default_factory=list)
    regenerated_segments: int = 0
    truncated_segments: int = 0
    removed_tags: int = 0
    resyncs: int = 0
    first_audio_s: float | None = None  # from the start of `speak` to the first samples
    started_s: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0  # for text: nothing could be said
    _ends_s: float = 0.0  # when a listener who plays in real time will have heard all of it

    @property
    def segments(self) -> int:
        return len(self.said)

    @property
    def edges(self) -> list[int]:
        """The sample each segment begins at."""
        return [said.begins for said in self.said if said.begins is not None]

    async def waiting(self, arrival: Awaitable[T]) -> T:
        """What arrives; the time until then is nobody's fault here."""
        since_s = time.perf_counter()
        try:
            return await arrival
        finally:
            self.waited_s += time.perf_counter() - since_s

    def count(self, pcm: Pcm, sample_rate: int) -> Pcm:
        """Samples on their way out."""
        now_s = time.perf_counter()
        if self.first_audio_s is None:
            self.first_audio_s = now_s - self.started_s
        self.samples += len(pcm)
        self._ends_s = max(self._ends_s, now_s) + len(pcm) / sample_rate
        return pcm

    def in_hand_s(self) -> float:
        """Seconds of audio a listener who plays in real time has not heard yet."""
        return max(0.0, self._ends_s - time.perf_counter())

    def ahead_s(self, sample_rate: int) -> float:
        """The same, and what is made and has not left yet."""
        made = sum(said.made for said in self.said)
        return self.in_hand_s() + max(0, made - self.samples) / sample_rate
