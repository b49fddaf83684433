"""What sound is between the codec and the encoder. Knows nothing of either."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]  # mono samples of any number, full scale is -1 to 1
