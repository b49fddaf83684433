"""The teacher's samples → pitch, envelope and breath (WORLD); and those → any of the eight speakers, 24 kHz.

Timing is kept to the sample: all speakers say a sentence at the same moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import parselmouth
import pyworld
import soxr

from training.clock import FRAME_SAMPLES, HOP_SAMPLES, RATE_HZ
from training.speakers import Speaker

TEACHER_PITCH_HZ = 88.0  # geometric mean of joe's voiced frames
LOUDNESS = 0.08  # RMS of the louder half of a sentence, full scale 1
_PITCH_HZ = (55.0, 180.0)  # the teacher's range; with a wider one its octave is found instead
_CREAK_RATIO = 0.72  # a creak an octave below the melody would jump when moved up


@dataclass(frozen=True)
class Analysis:
    """WORLD's three streams at hop 256: f0 (n,) Hz, 0 where unvoiced; envelope (n, bins); breath (n, bins)."""

    f0: np.ndarray
    envelope: np.ndarray
    breath: np.ndarray


def prepare(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """int16 at the teacher's rate → float64 at 24 kHz, of even loudness, a whole number of code frames."""
    audio = soxr.resample(samples.astype(np.float64) / 32768, rate_hz, RATE_HZ)
    audio = np.pad(audio, (0, -len(audio) % FRAME_SAMPLES))
    return level(audio)


def level(audio: np.ndarray) -> np.ndarray:
    """Scale a sentence to LOUDNESS, never into clipping."""
    return audio * gain(audio)


def gain(audio: np.ndarray) -> float:
    """By what to multiply a sentence for that."""
    energy = np.square(audio[: len(audio) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES)).mean(axis=1)
    loud = np.sqrt(np.sort(energy)[len(energy) // 2 :].mean())
    return float(min(LOUDNESS / max(loud, 1e-6), 0.98 / max(np.abs(audio).max(), 1e-6)))


def pitch(audio: np.ndarray, times: np.ndarray, height: float = 1.0) -> np.ndarray:
    """f0 in Hz at `times`, 0 where unvoiced, of the teacher or of one who speaks `height` times as high.

    Praat's: pyworld's dio hears joe an octave up, harvest costs 30×.
    """
    track = parselmouth.Sound(audio, RATE_HZ).to_pitch_ac(
        time_step=HOP_SAMPLES / RATE_HZ,
        pitch_floor=_PITCH_HZ[0] * height,
        pitch_ceiling=_PITCH_HZ[1] * height,
        silence_threshold=0.02,
        voicing_threshold=0.4,
        octave_jump_cost=0.6,
    )
    starts, f0 = track.xs(), track.selected_array["frequency"]
    nearest = np.round((times - starts[0]) / (starts[1] - starts[0])).astype(int)
    inside = (nearest >= 0) & (nearest < len(f0))
    return np.where(inside, f0[np.clip(nearest, 0, len(f0) - 1)], 0.0)


def frame_times(audio: np.ndarray) -> np.ndarray:
    """The middle of each frame in seconds; one frame more than audio / 256."""
    return np.arange(len(audio) // HOP_SAMPLES + 1) * (HOP_SAMPLES / RATE_HZ)


def pitch_and_envelope(audio: np.ndarray, height: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The first two streams of an analysis of 24 kHz audio: a third of its cost, and all that codes are made of."""
    times = frame_times(audio)
    f0 = pitch(audio, times, height)
    return f0, pyworld.cheaptrick(audio, f0, times, RATE_HZ, f0_floor=_PITCH_HZ[0])


def analyse(audio: np.ndarray) -> Analysis:
    """WORLD's view of 24 kHz audio."""
    f0, envelope = pitch_and_envelope(audio)
    size = (envelope.shape[1] - 1) * 2
    return Analysis(f0, envelope, pyworld.d4c(audio, f0, frame_times(audio), RATE_HZ, fft_size=size))


def melody(f0: np.ndarray) -> np.ndarray:
    """Natural log of pitch over the teacher's mean, straight through unvoiced stretches, creak lifted."""
    voiced = f0 > 0
    if not voiced.any():
        return np.zeros_like(f0)
    low = np.median(f0[voiced]) * _CREAK_RATIO
    lifted = np.where(f0 < low, low, f0)
    positions = np.flatnonzero(voiced)
    return np.log(np.interp(np.arange(len(f0)), positions, lifted[positions]) / TEACHER_PITCH_HZ)


def move(analysis: Analysis, speaker: Speaker) -> Analysis:
    """The streams of `speaker` saying the same."""
    bins = analysis.envelope.shape[1]
    position = np.minimum(np.arange(bins) / speaker.formants, bins - 1)
    below = np.minimum(position.astype(int), bins - 2)
    part = position - below

    def warp(spectrum: np.ndarray) -> np.ndarray:
        return spectrum[:, below] * (1 - part) + spectrum[:, below + 1] * part

    unit = np.arange(bins) / (bins - 1)
    envelope = np.exp(warp(np.log(analysis.envelope)) + speaker.tilt_db * unit * np.log(10) / 10)
    breath = warp(analysis.breath)
    breath = breath + (1 - breath) * speaker.breath * np.sqrt(unit)
    f0 = speaker.pitch(melody(analysis.f0)) * (analysis.f0 > 0)
    return Analysis(f0, np.ascontiguousarray(envelope), np.ascontiguousarray(breath))


def speak(analysis: Analysis, speaker: Speaker) -> np.ndarray:
    """The analysed sentence as `speaker` says it, 24 kHz float64."""
    moved = move(analysis, speaker)
    audio = pyworld.synthesize(moved.f0, moved.envelope, moved.breath, RATE_HZ, 1000 * HOP_SAMPLES / RATE_HZ)
    return level(audio[: (len(analysis.f0) - 1) * HOP_SAMPLES])
