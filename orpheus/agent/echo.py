"""Whether what the microphone hears is the agent's own voice, by likeness of the two waveforms, and by the words.

An echo is the played sound again, later and fainter, so it correlates with it whatever its level; other speech does not,
even above an echo. Echo cancellation belongs to the client, which knows its own loudspeaker; this is for one that has none.
"""

from __future__ import annotations

import re

import numpy as np

from orpheus.agent.audio import Samples

# In a room as loud as the loudspeaker an echo is 0.47 and more like what was played (of 640 ms, 1 of 50 below 0.5; median
# 0.73), with one wall 0.84; another voice, with an echo at -20 dB beneath it or without, up to 0.55 (1 of 50 above 0.5),
# of 1280 ms up to 0.39 (embedded voices, simulated room, 2026-11-30).
LIKE = 0.5
# Of what began as an echo: where the playback has holes that the server does not know exactly, 0.41 to 0.6; with somebody's
# voice on top, 1 of 20 above.
STILL_LIKE = 0.35
MAYBE = 0.4  # if its words are the agent's as well
REPEATED_WORDS = 4  # in a row that the agent is saying: nobody says them after it while it goes on
WINDOW_MS = 1280  # of what was heard, if there is as much


def is_echo(alike: float, heard: str, played: str, *, already: bool = False) -> bool:
    """Whether a sound is an echo: `alike` is its `likeness` to what was played, `already` what was found so far.

    `heard` are the words recognised in it, empty while they are not known; `played` those that the agent says.
    """
    if alike >= (STILL_LIKE if already else LIKE):
        return True
    words, said = _words(heard), _words(played)
    probable = alike >= MAYBE or len(words) >= REPEATED_WORDS
    return probable and bool(words) and f" {' '.join(words)} " in f" {' '.join(said)} "


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def likeness(heard: Samples, played: Samples) -> float:
    """The greatest normalised cross-correlation of `heard` and `played`, from 0 to 1, at any delay and level.

    Both at the same rate; 0 if less was played than half of what was heard. The other half may be from before or after
    what was played: an answer that begins is heard with the silence before it. A second in five takes 15 ms.
    """
    count = len(heard)
    if count == 0 or len(played) < count // 2:
        return 0.0
    played = np.pad(played, count // 2)
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
