"""Sampling parameters and their bounds, shared by both tiers: the request, the token source and the sampler."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from orpheus.errors import BadRequest

# As OpenAI, vLLM and llama.cpp bound them. top_p and min_p are shares of 1.
TEMPERATURE_MAX = 2.0
REPETITION_PENALTY_MIN, REPETITION_PENALTY_MAX = 0.1, 10.0
TOP_K_MAX = 2**31 - 1  # more than any vocabulary
SEED_MAX = 2**64 - 1
REPETITION_FRAMES = 64  # the repetition penalty looks back so far: 5.5 s
LLAMA_CPP_ANY_SEED = (
    2**32 - 1
)  # what llama-server shows as its default seed, and its clients send back for "any"


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one generation; BadRequest if one is out of bounds."""

    temperature: float = 0.6  # 0 is greedy
    top_p: float = 0.9  # above 0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    repetition_penalty: float = 1.1  # 1 is off; the makers of Orpheus ask for 1.1 or more
    seed: int | None = None  # None: a fresh one

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, TEMPERATURE_MAX),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", REPETITION_PENALTY_MIN, REPETITION_PENALTY_MAX),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high:
                raise BadRequest(f"{name} must be between {low:g} and {high:g}.", param=name)
        if self.top_p == 0:
            raise BadRequest("top_p must be above 0; use temperature 0 for greedy decoding.", param="top_p")
        if not 0 <= self.top_k <= TOP_K_MAX:
            raise BadRequest("top_k must be between 0 (off) and 2**31 - 1.", param="top_k")
        if self.seed is not None and not 0 <= self.seed <= SEED_MAX:
            raise BadRequest("seed must be between 0 and 2**64 - 1.", param="seed")

    def with_seed(self, seed: int) -> Sampling:
        return dataclasses.replace(self, seed=seed % (SEED_MAX + 1))
