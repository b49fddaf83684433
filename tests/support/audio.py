"""Encoded audio → samples."""

from __future__ import annotations

import io

import av
import numpy as np
from numpy.typing import NDArray


def decode(data: bytes) -> tuple[NDArray[np.float32], int]:
    """Samples of an encoded file, as mono float32, and their rate in Hz; decoded by FFmpeg."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
        resampler = av.AudioResampler(format="flt", layout="mono")
        parts = [out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]
        return np.concatenate(parts), frames[0].sample_rate
