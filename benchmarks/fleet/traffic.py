"""Who asks, and when: conversations by a day's curve, each of turns of human speech and answers.

All that is assumed of people is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400
# Conversations at once by the hour, as a share of the peak: trough at four, peak at eight in the evening. Assumed.
CURVE = (
    (0, 0.42), (2, 0.20), (4, 0.12), (6, 0.18), (8, 0.48), (10, 0.66), (12, 0.74), (14, 0.70),
    (16, 0.76), (18, 0.90), (20, 1.00), (22, 0.78), (24, 0.42),
)  # fmt: skip
# What a broadcast does: at the peak, within a minute, half as many more. Assumed.
BURST_AT_S, BURST_S, BURST = 20 * 3600, 60.0, 0.5
TURNS = 12.0  # of a conversation, on average; each is as likely as another to be the last
# From the end of an answer to the next request: pause and speech, lognormal, and what the agent needs until it has text
# to speak: half a second of silence, transcript, first words of the LLM.
HUMAN_MEDIAN_S, HUMAN_SIGMA, AGENT_S = 4.0, 0.6, 0.8
# How long the answers of benchmarks/conversation.py last in the voice tara (`--check`, 2026-11-30): quantiles.
REPLIES_S = (3.60, 4.45, 4.48, 4.80, 4.87, 5.08, 5.69, 6.29)


class Duration:
    """A distribution of seconds, on a grid: `shares(step_s)[i]` is how many of all last i steps."""

    def __init__(self, seconds: NDArray[np.float64]) -> None:
        """`seconds`: equally likely values, such as the quantiles of a distribution."""
        self.seconds = seconds
        self.mean_s = float(seconds.mean())

    @classmethod
    def lognormal(cls, median_s: float, sigma: float, more_s: float = 0.0) -> Duration:
        """Plus `more_s`, always."""
        return cls(median_s * np.exp(sigma * _NORMAL) + more_s)

    @classmethod
    def exponential(cls, mean_s: float) -> Duration:
        return cls(-mean_s * np.log1p(-_MIDDLES))

    def shares(self, step_s: float) -> NDArray[np.float64]:
        """A value between two steps is divided between both, so that the mean stays; none is shorter than one step."""
        steps = np.maximum(self.seconds / step_s, 1.0)
        below = np.floor(steps).astype(int)
        shares = np.zeros(below.max() + 2)
        np.add.at(shares, below, 1 - (steps - below))
        np.add.at(shares, below + 1, steps - below)
        shares /= shares.sum()
        return shares


_MIDDLES = (np.arange(2000) + 0.5) / 2000
_NORMAL = np.array([NormalDist().inv_cdf(share) for share in _MIDDLES])


@dataclass(frozen=True)
class Traffic:
    """Conversations at once over a day, or a number of them that stays, and what each consists of."""

    at_once: float  # at the peak
    human: Duration
    reply: Duration
    turns: float = TURNS  # infinite: nobody leaves and nobody comes
    curve: tuple[tuple[float, float], ...] = CURVE
    burst: float = 0.0  # a share of the peak that comes besides, at BURST_AT_S within BURST_S

    def share(self, at_s: float) -> float:
        """Of the peak, at a time of day."""
        hour = at_s / 3600 % 24
        for (begins, low), (ends, high) in pairwise(self.curve):
            if hour <= ends:
                return low + (high - low) * (hour - begins) / (ends - begins)
        raise ValueError(f"the curve ends before {hour:.1f} o'clock")

    @property
    def conversation_s(self) -> float:
        """How long one lasts on average, without waiting."""
        return self.turns * (self.human.mean_s + self.reply.mean_s)

    def arrivals_a_second(self, at_s: float) -> float:
        if math.isinf(self.turns):
            return 0.0
        besides = self.burst / BURST_S if BURST_AT_S <= at_s < BURST_AT_S + BURST_S else 0.0
        return self.at_once * (self.share(at_s) / self.conversation_s + besides)


def people(at_once: float) -> Traffic:
    """A day of conversations."""
    human = Duration.lognormal(HUMAN_MEDIAN_S, HUMAN_SIGMA, AGENT_S)
    return Traffic(at_once, human, Duration(np.array(REPLIES_S)))
