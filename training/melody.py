"""Melody codes → the pitch at every sample, from which the training audio is synthesized and the decoder knows the phase.

A codec cannot render a phase that its codes do not determine. Left to itself, a convolutional one blurs all but the
lowest harmonics into noise: the same codes give the same 512 samples, and few pitches divide 512 samples evenly. So each
code frame begins with a pulse and holds a whole number of periods, for which the pitch of its 85 ms moves by about half a
period: hardly audible, and everything periodic then follows from the frame's own code.
"""

from __future__ import annotations

import numpy as np

from training.clock import FRAME_SAMPLES, HOP_SAMPLES, LATENT_SAMPLES, LATENTS, RATE_HZ
from training.speakers import Speaker


def told(coarse: np.ndarray, melodies: np.ndarray) -> np.ndarray:
    """Melody codes (frames,) → the melody as they tell it, (8 · frames + 1,) log pitch ratio at hop 256.

    Off by 24 cents on average: at the eighteenth harmonic a quarter of the way to the next.
    """
    latents = melodies[coarse].reshape(-1)
    hops = np.interp(np.arange(2 * len(latents) + 1), 2 * np.arange(len(latents)) + 0.5, latents)
    weights = np.hanning(7)[1:-1] / np.hanning(7).sum()  # 50 ms: no steps from frame to frame
    return np.convolve(np.pad(hops, 2, mode="edge"), weights, mode="valid")


def pitch(coarse: np.ndarray, melodies: np.ndarray, speaker: Speaker) -> np.ndarray:
    """Melody codes (frames,) → Hz of each sample (2048 · frames,): the melody they tell, with a whole number of periods in
    every code frame."""
    f0 = speaker.pitch(told(coarse, melodies))
    hops = np.arange((len(f0) - 1) * HOP_SAMPLES) / HOP_SAMPLES
    frames = np.interp(hops, np.arange(len(f0)), f0).reshape(-1, FRAME_SAMPLES)
    even: np.ndarray = evened(frames, whole_periods(melodies[coarse], speaker)).reshape(-1)
    return even


def evened(hz: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """(frames, 2048) with this many periods in each frame, bent least where frames meet."""
    swell = 1 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES)
    short = periods * RATE_HZ - hz.sum(axis=1)
    bent: np.ndarray = hz + swell * (short / FRAME_SAMPLES)[:, None]
    return bent


def alone(melodies: np.ndarray, speaker: Speaker) -> np.ndarray:
    """(melodies, 2048) Hz of a frame of each code, as it tells by itself."""
    middles = np.arange(LATENTS) * LATENT_SAMPLES + LATENT_SAMPLES / 2
    return speaker.pitch(np.stack([np.interp(np.arange(FRAME_SAMPLES), middles, one) for one in melodies]))


def whole_periods(melodies: np.ndarray, speaker: Speaker) -> np.ndarray:
    """(melodies,): as many periods as come nearest to what each code tells by itself."""
    return np.maximum(np.round(alone(melodies, speaker).sum(axis=1) / RATE_HZ), 1)
