"""What an engine takes of a GPU's memory, told before it is taken, and how many streams fit."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orpheus.errors import SetupError
from orpheus.llama.batches import SPARE
from orpheus.llama.engine_config import EngineConfig

if TYPE_CHECKING:
    from orpheus.gpu import Gpu
    from orpheus.llama.backend import ModelShape

# Buffers of llama.cpp's graphs, and the driver's own.
OVERHEAD_BYTES = 600 << 20
CODEC_BYTES = 1536 << 20  # kept free for tier 2's codec and its graphs, on the same card
_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32}  # a value; q8_0 has a scale for every 32
GIB = 1 << 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a GPU's memory."""

    weights: int
    per_stream: int
    streams: int
    free: int

    @property
    def needed(self) -> int:
        return self.weights + OVERHEAD_BYTES + (self.streams + SPARE) * self.per_stream

    @property
    def fitting_streams(self) -> int:
        """As many streams as fit beside the codec; may be negative."""
        left = self.free - CODEC_BYTES - OVERHEAD_BYTES - self.weights
        return left // self.per_stream - SPARE

    def __str__(self) -> str:
        return (
            f"{self.needed / GIB:.1f} GiB: weights {self.weights / GIB:.1f}, caches of {self.streams} streams "
            f"{(self.streams + SPARE) * self.per_stream / GIB:.1f}, buffers {OVERHEAD_BYTES / GIB:.1f}; the codec takes "
            f"up to {CODEC_BYTES / GIB:.1f} beside them"
        )


def plan_memory(weights_bytes: int, shape: ModelShape, config: EngineConfig, free_bytes: int) -> MemoryPlan:
    """What an engine of this size takes with all layers on the GPU."""
    per_token = 2 * shape.layers * shape.kv_channels * _KV_BYTES[config.kv_type]
    return MemoryPlan(weights_bytes, round(per_token * config.context_tokens), config.streams, free_bytes)


def fit_to_gpu(path: Path, config: EngineConfig, gpu: Gpu, *, asked: bool) -> EngineConfig:
    """`config` with as many streams as fit the free memory of `gpu`.

    SetupError if not even one does, or fewer than were `asked` for with ORPHEUS_STREAMS.
    """
    from orpheus.llama.backend import read_shape

    plan = plan_memory(path.stat().st_size, read_shape(path), config, gpu.free_bytes)
    log.info("%s: this engine takes %s", gpu, plan)
    fits = plan.fitting_streams
    if fits >= config.streams:
        return config
    if fits < 1:
        raise SetupError(
            f"{gpu} does not hold the model: it takes {plan}. Free memory of the GPU, set ORPHEUS_MODEL to a smaller "
            "quantization (Q4_K_M), lower ORPHEUS_CONTEXT_TOKENS, or lower ORPHEUS_GPU_LAYERS."
        )
    if asked:
        raise SetupError(
            f"{gpu} does not hold {config.streams} streams: they take {plan}. Set ORPHEUS_STREAMS={fits}, or "
            "ORPHEUS_KV_TYPE=q8_0, which halves the caches."
        )
    log.warning("%s has room for %d streams, not %d: ORPHEUS_STREAMS=%d", gpu, fits, config.streams, fits)
    return dataclasses.replace(config, streams=fits, waiting=max(2, fits // 4))
