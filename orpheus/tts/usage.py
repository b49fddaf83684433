"""The counts of one utterance: tokens, samples, segments, playout. Filled in by the pipeline, read by metrics and API."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from orpheus.pcm import Pcm
from orpheus.playout import PlayoutClock
from orpheus.text import Segment

T = TypeVar("T")

# What a first byte waits for, in this order: the first segment of the text, its first frame of tokens, the frames that
# the codec needs beyond it, the codec's thread, its work, a voice after the silence, the prebuffer, the encoder.
FIRST_BYTE_PARTS = (
    "text",
    "first_frame",
    "frames",
    "codec_queue",
    "codec",
    "silence",
    "prebuffer",
    "encoding",
)


@dataclass
class Usage:
    """Counts of one utterance. Used from one event loop."""

    prompt_tokens: int = 0
    audio_tokens: int = 0
    samples: int = 0  # sent on, at the codec's rate
    segments: list[Segment] = field(default_factory=list)  # begun so far, in order
    part_starts: list[int] = field(default_factory=list)  # of each part begun, its first segment
    pauses: list[Segment] = field(default_factory=list)  # that the text asked for, begun so far
    regenerated_segments: int = 0
    truncated_segments: int = 0
    removed_tags: int = 0
    left_out_chars: int = 0  # letters that the voice cannot speak
    resyncs: int = 0
    playout: PlayoutClock = field(default_factory=PlayoutClock)  # of the listener
    started_s: float = field(default_factory=time.monotonic)
    first_segment_s: float | None = None  # from `started_s` to the first segment
    first_audio_s: float | None = None  # from `started_s` to the first samples
    waited_s: float = 0.0  # for text to arrive: time in which there was nothing to speak
    reached_s: dict[str, float] = field(default_factory=dict)  # when each of FIRST_BYTE_PARTS was over
    _excused_s: float = 0.0  # of `waited_s`, already passed to the playout clock

    @property
    def segment_starts(self) -> list[int]:
        """The first sample of each segment that was sent."""
        return [segment.start for segment in self.segments if segment.start is not None]

    def segments_s(self, playout_rate: float) -> list[float]:
        """The same in seconds of audio; `playout_rate` is in samples per second, speed included."""
        return [round(sample / playout_rate, 4) for sample in self.segment_starts]

    async def waiting(self, arrival: Awaitable[T]) -> T:
        """Await text; the time until it arrives is excused."""
        since_s = time.monotonic()
        try:
            return await arrival
        finally:
            self.waited_s += time.monotonic() - since_s

    def reach(self, part: str, now_s: float | None = None) -> None:
        """A part of FIRST_BYTE_PARTS is over; only its first time counts."""
        self.reached_s.setdefault(part, time.monotonic() if now_s is None else now_s)

    @property
    def first_byte_parts_s(self) -> dict[str, float]:
        """Seconds that each of FIRST_BYTE_PARTS took, for those that were reached."""
        taken, before_s = {}, self.started_s
        for part in FIRST_BYTE_PARTS:
            if part in self.reached_s:
                taken[part] = max(0.0, self.reached_s[part] - before_s)
                before_s = max(before_s, self.reached_s[part])
        return taken

    def begin(self, segment: Segment) -> None:
        """A segment is complete, and its generation begins."""
        if self.first_segment_s is None:
            self.first_segment_s = time.monotonic() - self.started_s
            self.reach("text")
        self.segments.append(segment)

    def count(self, pcm: Pcm, samples_per_s: float) -> Pcm:
        """Count samples on their way out and return them; `samples_per_s` is the rate of playout, speed included."""
        now_s = time.monotonic()
        if self.first_audio_s is None:
            self.first_audio_s = now_s - self.started_s
            self.reach("prebuffer", now_s)
        self.samples += len(pcm)
        self.playout.add(len(pcm) / samples_per_s, now_s, excused_s=self.waited_s - self._excused_s)
        self._excused_s = self.waited_s
        return pcm

    def generated_s(self, samples_per_s: float) -> float:
        """Seconds of audio the listener has or will get without waiting: buffered, and generated but not sent yet."""
        generated = sum(segment.samples for segment in [*self.segments, *self.pauses])
        return self.playout.buffered_s() + max(0, generated - self.samples) / samples_per_s
