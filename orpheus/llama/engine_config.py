"""The sizes an engine runs with: from the settings, with defaults chosen for the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orpheus.llama.batches import SPARE
from orpheus.settings import Settings

if TYPE_CHECKING:
    from orpheus.llama.backend import ContextOptions

GPU_STREAMS = 32  # real-time Orpheus-3B streams of one L40S at Q8_0, by its bandwidth
CPU_STREAMS = 8


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of one engine. `from_settings` is the usual constructor; tests and benchmarks change single fields."""

    streams: int  # decoded at once
    waiting: int  # completions that may queue for a free sequence; one more is refused
    threads: int
    # Per stream, prompt and speech: 25 s, where tier 2's longest segment is about 20 s.
    context_tokens: int = 2048
    kv_type: Literal["f16", "q8_0"] = "f16"
    # Most in one step: a longer prompt is read over several, so that it delays nobody.
    batch_tokens: int = 512
    stream_frames: int = 64  # frames a reader may leave unread before its stream pauses: 5.5 s
    pause_timeout_s: float = 60.0  # a stream paused for longer is dropped: its reader is gone

    @classmethod
    def from_settings(cls, settings: Settings, *, gpu: bool) -> EngineConfig:
        """`gpu`: whether one speaks Orpheus-3B in real time, which decides the default number of streams."""
        streams = settings.streams or (GPU_STREAMS if gpu else CPU_STREAMS)
        return cls(
            streams=streams,
            waiting=max(2, streams // 4),
            threads=settings.cpu_threads,
            context_tokens=settings.context_tokens or cls.context_tokens,
            kv_type=settings.kv_type,
            batch_tokens=max(cls.batch_tokens, 2 * streams),
        )

    def context_options(self) -> ContextOptions:
        """The options of llama.cpp's context, with sequences to spare."""
        from orpheus.llama.backend import ContextOptions

        sequences = self.streams + SPARE
        return ContextOptions(
            sequences=sequences,
            context_tokens=self.context_tokens,
            batch_tokens=self.batch_tokens,
            outputs=sequences,  # one each
            threads=self.threads,
            kv_type=self.kv_type,
        )
