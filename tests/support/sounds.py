"""Sounds in which nobody speaks: mono float32 at 16 kHz."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # Hz

Sound = NDArray[np.float32]


def tone(hz: float, seconds: float, level: float = 0.3, rate: int = RATE) -> Sound:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE), np.float32)


def noises(seconds: float, seed: int = 0) -> dict[str, Sound]:
    """One of each kind by name, so long."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    at_s = np.arange(n) / RATE
    white = rng.normal(0, 1, n)
    spectrum = np.fft.rfft(white)
    falling = np.maximum(1, np.arange(len(spectrum)))
    pink = np.fft.irfft(spectrum / np.sqrt(falling), n)
    brown = np.fft.irfft(spectrum / falling, n)
    clicks = np.zeros(n)
    for start in rng.integers(0, max(1, n - 300), max(1, n // 5_000)):
        clicks[start : start + 300] += (
            rng.choice([-1, 1]) * rng.uniform(0.2, 0.9) * np.exp(-np.arange(300) / 40)
        )[: n - start]
    key = rng.normal(size=600) * np.exp(-np.arange(600) / 120)
    sounds = {
        "silence": np.zeros(n),
        "white noise": 0.1 * white,
        "loud white noise": 0.3 * white,
        "faint white noise": 0.003 * white,
        "pink noise": 0.1 * pink / pink.std(),
        "brown noise": 0.1 * brown / brown.std(),
        "50 Hz hum": tone(50, seconds, 0.2),
        "100 Hz hum with overtones": tone(100, seconds, 0.2)
        + tone(200, seconds, 0.1)
        + tone(300, seconds, 0.05),
        "a tone": tone(1_000, seconds, 0.2),
        "clicks": clicks,
        "keys": 0.5 * np.convolve((rng.random(n) < 0.0004) * rng.uniform(0.2, 0.8, n), key)[:n],
        "gusts": 0.2 * white * np.clip(np.sin(2 * np.pi * 0.7 * at_s), 0, 1) ** 2,
    }
    return {name: np.clip(sound, -1, 1).astype(np.float32) for name, sound in sounds.items()}
