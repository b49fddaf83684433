"""How a token is drawn: one small value carried from the request to the sampler, through both tiers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from orpheus.errors import BadRequest


@dataclass(frozen=True)
class Sampling:
    """Sampling settings. Ranges as OpenAI, vLLM and llama.cpp accept them; BadRequest outside."""

    temperature: float = 0.6  # 0 is greedy
    top_p: float = 0.9  # (0, 1]
    top_k: int = 0  # [0, 2**31), 0 is off
    min_p: float = 0.0  # [0, 1]
    repetition_penalty: float = 1.1  # 1 is off; Orpheus' makers ask for 1.1 or more
    seed: int | None = None  # None: a fresh one for each request

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 2.0),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.1, 10.0),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high:
                raise BadRequest(f"{name} must be between {low:g} and {high:g}.", param=name)
        if self.top_p == 0:
            raise BadRequest("top_p must be above 0; use temperature 0 for greedy.", param="top_p")
        if not 0 <= self.top_k < 2**31:  # as in llama.cpp; more than any vocabulary
            raise BadRequest("top_k must be between 0 (off) and 2**31 - 1.", param="top_k")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise BadRequest("seed must be between 0 and 2**64 - 1.", param="seed")

    def with_seed(self, seed: int) -> Sampling:
        return dataclasses.replace(self, seed=seed % 2**64)
