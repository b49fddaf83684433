"""Whether what the microphone hears is the agent's own voice, by likeness of the two waveforms.

An echo is the played sound again, later and fainter, so it correlates with it whatever its level; other speech does not,
even above an echo. Echo cancellation belongs to the client, which knows its own loudspeaker; this is for one that has none.
"""

from __future__ import annotations

import numpy as np

from orpheus.agent.audio import Samples

# Of 640 ms of another voice, the likeness to six seconds of tara was 0.18 to 0.41 (median 0.26), with an echo at -20 dB
# beneath it too; of the echo itself in a room as loud as the loudspeaker 0.5 to 0.84 (median 0.75) in 19 of 20 places.
# Of 320 ms it was up to 0.52 and from 0.41 (leo and tara, embedded, simulated room, 2026-11-30).
LIKE = 0.6
MAYBE = 0.4  # if its words are the agent's as well
WINDOW_MS = 640  # of what was heard, if there is as much


def likeness(heard: Samples, played: Samples) -> float:
    """The greatest normalised cross-correlation of `heard` within `played`, from 0 to 1, at any delay and level.

    Both at the same rate; 0 if `played` is shorter. Two thirds of a second in six take 15 ms.
    """
    count = len(heard)
    if count == 0 or len(played) < count:
        return 0.0
    size = 1 << (len(played) + count - 1).bit_length()
    spectrum = np.fft.rfft(played, size) * np.conj(np.fft.rfft(heard, size))
    products = np.fft.irfft(spectrum, size)[: len(played) - count + 1]
    sums = np.concatenate(([0.0], np.cumsum(played.astype(np.float64) ** 2)))
    energies = np.maximum(sums[count:] - sums[:-count], 0.0) * float(np.sum(heard.astype(np.float64) ** 2))
    # Where nothing was played, any two silences would be alike.
    audible = energies > 1e-12 + 1e-4 * energies.max(initial=0.0)
    if not audible.any():
        return 0.0
    return float(np.max(np.abs(products[audible]) / np.sqrt(energies[audible])))
