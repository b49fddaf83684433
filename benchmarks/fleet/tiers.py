"""What serves: how fast each tier is with so many streams, how many it takes, what it costs, how a fleet of it grows.

Figures of GPUs are projected, by the arithmetic of benchmarks/step_model.py; none was measured on one yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet.traffic import REPLIES_S
from benchmarks.step_model import PROMPT_TOKENS, Machine, described, find_card, step_ms
from orpheus.deploy.prices import hourly_usd
from orpheus.deploy.settings import CORES, MEMORY_GIB
from orpheus.vocabulary import TOKENS_PER_S

FIRST_TOKENS = 15  # a prompt's pass, and the two frames of which the first sound is made
# Of a step: milliseconds that the host adds, by streams (`python -m benchmarks.roofline`, AMD EPYC, 2026-11-30).
HOST_MS = {1: 0.10, 32: 0.54, 96: 1.32}
# In a stream's cache at a moment of it, on average: its prompt, and half of an answer, of which the long ones run longer.
ANSWER_TOKENS = PROMPT_TOKENS + TOKENS_PER_S * float(np.square(REPLIES_S).sum() / np.sum(REPLIES_S)) / 2
TIER_2_S = 0.060  # codec, encoding and the way between the tiers: assumed for an L4
# First byte ÷ its median, as a pair on two cores spreads it (`--check`, AMD EPYC, 2026-11-30), and which quantiles.
SPREAD_AT = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 0.995)
SPREAD = (0.77, 0.86, 0.91, 0.96, 0.99, 1.02, 1.08, 1.12, 1.20, 1.34, 1.98)


def projected_steps_s(streams: Iterable[int]) -> NDArray[np.float64]:
    """Steps of an L40S with so many streams: Orpheus-3B, Q8_0, with the trimmed head."""
    model, card = described("Q8_0").trimmed(), find_card("L40S")
    assert model
    assert card
    machine = Machine.of(card, lambda count: float(np.interp(count, list(HOST_MS), list(HOST_MS.values()))))
    return np.array([step_ms(model, machine, count, ANSWER_TOKENS, "f16") for count in streams]) / 1000


@dataclass(frozen=True)
class Scaling:
    """How the number of instances follows the load. Modal's autoscaler and a HorizontalPodAutoscaler differ in numbers."""

    name: str
    every_s: float  # between two looks
    start_s: float  # from the decision to the first answer
    window_s: float  # an instance stops only when so long none more was wanted
    least: int = 1
    most: int = 100_000
    spare: int = 0  # beyond what the load asks for
    tolerance: float = 0.0  # a load that differs by less changes nothing
    grow: float = float("inf")  # at most this share more at a time, …
    grow_every_s: float = 0.0
    shrink: float = 1.0  # at most this share, or one, less at a time, …
    shrink_every_s: float = 0.0
    saturates: bool = False  # the load is that of the streams at work: who waits is not seen


MODAL = Scaling("Modal", every_s=5, start_s=60, window_s=1200, least=1)
# deploy/kubernetes/base/autoscaling.yaml, on machines that are there: a pod's start, no machine's.
KUBERNETES = Scaling(
    "Kubernetes",
    every_s=15,
    start_s=90,
    window_s=600,
    least=2,
    tolerance=0.1,
    grow=1.0,
    grow_every_s=30,
    shrink=0.1,
    shrink_every_s=120,
    saturates=True,
)


@dataclass(frozen=True)
class Instance:
    """One tier 1."""

    streams: int
    waiting: int  # beyond them, in its queue
    rows: NDArray[np.float64]  # numbers of streams at work, for which is known:
    first_s: NDArray[np.float64]  # to the first byte, one's own stream included
    speed: NDArray[np.float64]  # seconds of speech a second and stream
    spread: NDArray[np.float64] = field(default_factory=lambda: np.array(SPREAD))

    def first(self, rows: float) -> float:
        return float(np.interp(rows, self.rows, self.first_s))

    def fast(self, rows: float) -> float:
        return float(np.interp(rows, self.rows, self.speed))


@dataclass(frozen=True)
class Design:
    """A fleet of both tiers."""

    llama: Instance
    speech_places: int  # of one tier 2
    scaling: Scaling
    target: float  # load of an instance that the scaling aims at
    llama_usd: float = 0.0  # an hour
    speech_usd: float = 0.0

    @property
    def speech_scaling(self) -> Scaling:
        return replace(self.scaling, saturates=False)


def l40s(streams: int = 32) -> Instance:
    """Projected."""
    rows = np.arange(1, streams + 1)
    step_s = projected_steps_s(rows)
    first_s, speed = FIRST_TOKENS * step_s + TIER_2_S, 1 / (step_s * TOKENS_PER_S)
    return Instance(streams, max(2, streams // 4), rows.astype(float), first_s, speed)


def on_gpus(scaling: Scaling, target: float) -> Design:
    """An L40S for each tier 1 and an L4 for each tier 2, at Modal's prices. Projected."""
    usd = [hourly_usd(gpu, CORES, MEMORY_GIB, None) for gpu in ("L40S", "L4")]
    return Design(l40s(), 64, scaling, target, *usd)
