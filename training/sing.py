"""WORLD's three streams → tone and breath, 24 kHz, with the pulses of the tone placed by the melody (melody.py).

After WORLD (Morise 2016): a pulse is the minimum-phase response of the envelope at its position.
"""

from __future__ import annotations

import numpy as np
import pyworld

from training.clock import HOP_SAMPLES, RATE_HZ
from training.shift import Analysis

_LEAST_POWER = 1e-16


def sing(streams: Analysis, hz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(tone, breath), each (samples,) float64; their sum is the speech. `hz` (samples,) is the pitch, of a
    whole number of periods, whose first pulse is at 0; the streams' own says only what is voiced."""
    voiced = streams.f0 > 0
    noise = np.where(voiced[:, None], streams.breath, 1.0) ** 2
    breath = pyworld.synthesize(
        np.zeros(len(voiced)),
        streams.envelope * noise,
        np.ones(noise.shape),
        RATE_HZ,
        1000 * HOP_SAMPLES / RATE_HZ,
    )
    sounding = np.interp(np.arange(len(hz)) / HOP_SAMPLES, np.arange(len(voiced)), voiced) > 0.5
    positions = pulses(hz)
    positions = positions[sounding[positions.astype(int)]]
    periods = RATE_HZ / hz[positions.astype(int)]
    return _tone(streams.envelope * (1 - noise), positions, periods, len(hz)), breath[: len(hz)]


def pulses(hz: np.ndarray) -> np.ndarray:
    """Positions of the pulses in samples, fractional: the first at 0, each a period after the one before."""
    cycles = np.concatenate([[-1e-9], np.cumsum(hz) / RATE_HZ + 1e-9])
    whole = np.arange(np.floor(cycles[-1]))
    return np.interp(whole, cycles, np.arange(len(cycles)))


def _tone(power: np.ndarray, positions: np.ndarray, periods: np.ndarray, count: int) -> np.ndarray:
    """Pulses through the envelope `power` (hops, bins) at their positions, (count,)."""
    size = (power.shape[1] - 1) * 2
    hops = positions / HOP_SAMPLES
    below = np.minimum(hops.astype(int), len(power) - 2)
    upper = (hops - below)[:, None]
    there = power[below] * (1 - upper) + power[below + 1] * upper
    cepstrum = np.fft.irfft(np.log(np.maximum(there, _LEAST_POWER)) / 2, size, axis=1)
    cepstrum[:, 1 : size // 2] *= 2  # minimum phase: all of it after the pulse
    cepstrum[:, size // 2 + 1 :] = 0
    late = np.exp(-2j * np.pi * np.arange(power.shape[1]) / size * (positions % 1)[:, None])
    responses = np.fft.irfft(np.exp(np.fft.rfft(cepstrum, size, axis=1)) * late, size, axis=1)
    responses = (responses - responses.mean(axis=1, keepdims=True)) * np.sqrt(periods)[:, None]
    tone = np.zeros(count + size)
    for response, position in zip(responses, positions.astype(int), strict=True):
        tone[position : position + size] += response
    return tone[:count]
