"""What an engine takes of a GPU's memory, told before it is taken or fetched, and how many streams fit."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orpheus import weights
from orpheus.errors import SetupError
from orpheus.llama.batches import SPARE
from orpheus.llama.engine_config import EngineConfig
from orpheus.settings import ALL_LAYERS, EMBEDDED, Settings

if TYPE_CHECKING:
    from orpheus.gpu import Gpu
    from orpheus.llama.backend import ModelShape

# Buffers of llama.cpp's graphs, and the driver's own.
OVERHEAD_BYTES = 600 << 20
CODEC_BYTES = 1536 << 20  # kept free for tier 2's codec and its graphs, on the same card
_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32}  # a value; q8_0 has a scale for every 32
GIB = 1 << 30
SMALLER_MODEL = "lex-au/Orpheus-3b-FT-Q4_K_M.gguf"  # from the maker of the default one

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


def find_model(settings: Settings) -> Path:
    """The model's file; one that has to be fetched only if its memory suffices. WeightsError, SetupError."""
    return weights.find_model(settings, sized=lambda size: _check_before_fetch(size, settings))


def _check_before_fetch(size: int, settings: Settings) -> None:
    """SetupError if an Orpheus-3B of `size` bytes would not fit the GPU. Other models are looked at once they are here."""
    from orpheus.gpu import find_gpu
    from orpheus.llama.backend import PUBLISHED_SHAPE

    gpu = find_gpu() if uses_all_of_gpu(settings) else None
    if gpu is None or "3b" not in weights.model_name(settings).lower():
        return
    config = EngineConfig.from_settings(settings, gpu=gpu.keeps_up)
    plan = plan_memory(size, PUBLISHED_SHAPE, config, gpu.free_bytes)
    _fitting(plan, config, gpu, asked=settings.streams is not None)


def uses_all_of_gpu(settings: Settings) -> bool:
    """Whether all layers go to the GPU, if there is one."""
    return settings.gpu_layers in (-1, ALL_LAYERS)


def fit_to_gpu(path: Path, config: EngineConfig, gpu: Gpu, *, asked: bool) -> EngineConfig:
    """`config` with as many streams as fit the free memory of `gpu`.

    SetupError if not even one does, or fewer than were `asked` for with ORPHEUS_STREAMS.
    """
    from orpheus.llama.backend import read_shape

    plan = plan_memory(path.stat().st_size, read_shape(path), config, gpu.free_bytes)
    return _fitting(plan, config, gpu, asked=asked)


def _fitting(plan: MemoryPlan, config: EngineConfig, gpu: Gpu, *, asked: bool) -> EngineConfig:
    log.info("%s: this engine takes %s", gpu, plan)
    fits = plan.fitting_streams
    if fits >= config.streams:
        return config
    if fits < 1:
        raise SetupError(
            f"{gpu} does not hold the model: it takes {plan}. Free memory of the GPU, set ORPHEUS_MODEL to a smaller "
            f"quantization ({SMALLER_MODEL}) or to '{EMBEDDED}', lower ORPHEUS_CONTEXT_TOKENS, or lower "
            "ORPHEUS_GPU_LAYERS."
        )
    if asked:
        raise SetupError(
            f"{gpu} does not hold {config.streams} streams: they take {plan}. Set ORPHEUS_STREAMS={fits}, or "
            f"ORPHEUS_KV_TYPE=q8_0, which halves the caches, or ORPHEUS_MODEL={SMALLER_MODEL}."
        )
    log.warning("%s has room for %d streams, not %d: ORPHEUS_STREAMS=%d", gpu, fits, config.streams, fits)
    return dataclasses.replace(config, streams=fits, waiting=max(2, fits // 4))
