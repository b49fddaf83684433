"""Audio as it passes between the codec, the post-processing and the encoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]  # (samples,), mono, full scale is -1 to 1
