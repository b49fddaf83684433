"""Settings → the sizes an engine runs with, the open ones chosen for the machine.

Knows nothing of how they are used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orpheus.errors import SetupError
from orpheus.llama.batches import SPARE
from orpheus.settings import Settings

if TYPE_CHECKING:
    from orpheus.llama.backend import ContextOptions

GPU_STREAMS = 32  # real-time Orpheus-3B streams of one L40S at Q8_0, by its bandwidth
CPU_STREAMS = 8
SLOT_TOKENS = 2048  # 25 s of speech: the longest piece tier 2 sends is about 20 s


@dataclass(frozen=True)
class EngineConfig:
    streams: int
    waiting: int
    slot_tokens: int
    batch_tokens: int
    threads: int
    unified: bool
    even_batches: bool
    flash_attention: Literal["auto", "on", "off"]
    type_k: Literal["f16", "q8_0"]
    type_v: Literal["f16", "q8_0"]
    stream_frames: int
    pause_timeout_s: float
    repetition_frames: int

    def context(self) -> ContextOptions:
        """The options of llama.cpp's context. A split cache has sequences to spare, to swap ids through."""
        from orpheus.llama.backend import ContextOptions

        sequences = self.streams if self.unified else self.streams + SPARE
        return ContextOptions(
            sequences=sequences,
            sequence_tokens=self.slot_tokens,
            batch_tokens=self.batch_tokens,
            outputs=sequences,  # one each: 0 would reserve logits of the whole vocabulary a batch token
            threads=self.threads,
            unified=self.unified,
            flash_attention=self.flash_attention,
            type_k=self.type_k,
            type_v=self.type_v,
        )


def engine_config(settings: Settings, *, gpu: bool) -> EngineConfig:
    """SetupError where settings contradict each other."""
    streams = settings.streams or (GPU_STREAMS if gpu else CPU_STREAMS)
    if streams + SPARE > 256 and settings.kv == "split":
        raise SetupError("ORPHEUS_STREAMS must be 254 or less with ORPHEUS_KV=split: llama.cpp holds 256.")
    if settings.type_v == "q8_0" and settings.flash_attention == "off":
        raise SetupError("ORPHEUS_TYPE_V=q8_0 needs flash attention: set ORPHEUS_FLASH_ATTENTION=auto or on.")
    return EngineConfig(
        streams=streams,
        waiting=max(2, streams // 4) if settings.waiting is None else settings.waiting,
        slot_tokens=settings.slot_tokens or SLOT_TOKENS,
        batch_tokens=max(settings.batch_tokens, 2 * streams),
        # Half of the cores: llama.cpp's threads wait for each other by spinning, so one that has to share its core
        # stalls all (2 threads on 2 busy cores: 45 ms a step against 3.5 ms with 1, AMD EPYC, 2026-11-21).
        threads=settings.llama_threads or max(1, (os.cpu_count() or 2) // 2),
        unified=settings.kv == "unified",
        even_batches=settings.even_batches,
        flash_attention=settings.flash_attention,
        type_k=settings.type_k,
        type_v=settings.type_v,
        stream_frames=settings.stream_frames,
        pause_timeout_s=settings.pause_timeout_s,
        repetition_frames=settings.repetition_frames,
    )
