"""Engines over the embedded voice, for tests of tier 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orpheus import embedded
from orpheus.llama.engine import Completion, Engine, Stream
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.trimmed_head import TrimmedHead
from orpheus.sampling import Sampling
from orpheus.settings import Settings

TEXT = "<|audio|>tara: The boat drifted slowly down the river.<|eot_id|>"


def settings(**options: Any) -> Settings:
    defaults: dict[str, Any] = {"streams": 4, "context_tokens": 512, "threads": 1, "gpu_layers": 0}
    return Settings(_env_file=None, **{**defaults, **options})


def load(
    path: Path = embedded.MODEL, streams: int = 4, *, trimmed: TrimmedHead | None = None, **config: Any
) -> Engine:
    """An engine of four streams on one thread; `config` changes fields of its EngineConfig."""
    chosen = EngineConfig.from_settings(settings(streams=streams), gpu=False)
    return Engine.open(path, dataclasses.replace(chosen, **config), trimmed=trimmed)


@contextmanager
def engine_of(path: Path = embedded.MODEL, **options: Any) -> Iterator[Engine]:
    engine = load(path, **options)
    try:
        yield engine
    finally:
        engine.close()


async def collect(stream: Stream) -> list[int]:
    """All numbers of a stream; its finish reason is checked to be there."""
    numbers: list[int] = []
    reason = None
    async with stream:
        async for chunk in stream:
            numbers += chunk.numbers
            reason = chunk.finish_reason
    assert reason is not None
    return numbers


def completion(engine: Engine, text: str = TEXT, tokens: int = 140, **sampling: Any) -> Completion:
    return Completion(engine.tokenize_prompt(text), tokens, Sampling(**{"seed": 1, **sampling}))
