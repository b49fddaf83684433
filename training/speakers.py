"""The eight speakers: name → pitch, formants, tone and rate. One teacher's voice, moved eight ways.

`shift.py` applies these numbers, `codes.py` gives each speaker its codes. They were chosen with a speaker embedding,
which identifies a voice by one short sentence in 98 of 100 pairs; larger shifts are understood less well. Speakers that
are close in pitch differ in formants or tone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Piper's length_scale; a sentence is spoken once, at one of these, and serves the speakers of that rate.
RATES = (0.94, 1.0, 1.07)


@dataclass(frozen=True)
class Speaker:
    name: str
    pitch_hz: float  # geometric mean of the voiced frames
    pitch_range: float  # 1: the teacher's own melody; above: livelier
    formants: float  # 1: the teacher's own; above: a shorter vocal tract
    tilt_db: float  # spectral slope added from 0 Hz to 12 kHz; above 0: brighter
    breath: float  # 0: as the teacher; 1: all breath
    rate: int  # index into RATES

    def pitch(self, melody: np.ndarray) -> np.ndarray:
        """Log pitch ratios → Hz."""
        return self.pitch_hz * np.exp(self.pitch_range * melody)


# The index is part of the codes: adding a speaker at the end is safe, changing the order is not.
SPEAKERS = (
    Speaker("tara", 200, 1.10, 1.18, -1.0, 0.00, 1),
    Speaker("leah", 234, 1.25, 1.11, -5.0, 0.11, 2),
    Speaker("jess", 172, 1.30, 1.12, 7.0, 0.00, 0),
    Speaker("leo", 108, 1.05, 1.02, 0.0, 0.00, 1),
    Speaker("dan", 87, 0.95, 0.98, -4.0, 0.00, 2),
    Speaker("mia", 264, 1.15, 1.28, 4.0, 0.00, 1),
    Speaker("zac", 138, 1.30, 1.07, 7.0, 0.00, 0),
    Speaker("zoe", 157, 0.93, 1.22, -5.0, 0.13, 1),
)
