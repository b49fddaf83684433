"""Whether a sound is hummed behind closed lips, as a listener's "mm-hmm" is, which recognizers write as odd words."""

from __future__ import annotations

import numpy as np

from orpheus.agent.audio import SAMPLE_RATE, Samples
from orpheus.agent.hear import Heard

MM_HMM = "Mm-hmm."  # how it is written

# Of a hum all frames are all below 600 Hz; of "mm-hmm", "mhm", "hmm" and "mm" in eight voices, which open their lips in
# the middle, 36 to 100%. Whisper base makes "My name", "Men" or "Nantina" of them, and doubts it. Of 200 other words and
# calls at most 57% are; "one moment" and "never mind" have 40 to 56% but are not doubted or begin otherwise. What is
# lost is a mumbled "more", "mom" or "Monday" that is said alone (embedded voices, 2026-11-30).
_FRAME = 512  # samples, 32 ms
_STEP = 256
_ABOVE_HZ = 600  # lips that are open let this through
_HUM_HZ = 80  # below is no voice
_AUDIBLE = 0.02  # of the loudest frame's power
_CLOSED = 0.05  # of a frame's power is above, at most
ALL_THE_WAY = 0.6  # of the frames: no word is
HALF = 0.5  # of a word that begins with m or n (9 is one), which is how closed lips are written
MUCH_OF_IT = 0.33  # and that the recognizer doubts
DOUBTFUL = -0.6  # mean log probability of a token
SHORT_S = 1.2  # with what is kept before it
LONGEST_S = 4.0  # hummed; more is not looked at


def is_murmur(samples: Samples, heard: Heard) -> bool:
    """Whether `heard` is no word. `samples` are those it was recognized from; looking at them takes two milliseconds."""
    if len(samples) > LONGEST_S * SAMPLE_RATE:
        return False
    share = closed_share(samples)
    if share >= ALL_THE_WAY:
        return True
    words = heard.text.lower().split()
    if not words or words[0][0] not in "mn9" or len(set(words)) > 2 or len(samples) > SHORT_S * SAMPLE_RATE:
        return False
    doubted = heard.likely is not None and heard.likely < DOUBTFUL
    return share >= HALF or (share >= MUCH_OF_IT and doubted)


def closed_share(samples: Samples) -> float:
    """Of the audible frames, the share in which nearly all is below what open lips let through; 0 of silence."""
    if len(samples) < _FRAME:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_STEP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME).astype(np.float32), axis=1)) ** 2
    hz = np.fft.rfftfreq(_FRAME, 1 / SAMPLE_RATE)
    whole, above = power[:, hz > _HUM_HZ].sum(1), power[:, hz > _ABOVE_HZ].sum(1)
    audible = whole > max(_AUDIBLE * whole.max(), 1e-9)
    return float(np.mean(above[audible] < _CLOSED * whole[audible])) if audible.any() else 0.0
