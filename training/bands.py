"""Weights of mel bands over spectrum bins."""

from __future__ import annotations

from functools import cache

import numpy as np

from training.clock import RATE_HZ

BANDS = 80


@cache
def mel_weights(bins: int, bands: int = BANDS, low_hz: float = 40.0, high_hz: float = 11500.0) -> np.ndarray:
    """Triangles (bins, bands) on the mel scale, each of weight one; a triangle between two bins takes the nearest."""
    edges_mel = np.linspace(2595 * np.log10(1 + low_hz / 700), 2595 * np.log10(1 + high_hz / 700), bands + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    hz = np.arange(bins) * (RATE_HZ / 2) / (bins - 1)
    up = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(up, down))
    empty = np.flatnonzero(weights.sum(axis=0) == 0)
    weights[np.abs(hz[:, None] - edges[1:-1][empty]).argmin(axis=0), empty] = 1
    return (weights / weights.sum(axis=0)).astype(np.float32)
