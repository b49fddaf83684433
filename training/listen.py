"""Audio and the text it should say → word error rate by pocketsphinx, whose English model is in its wheel.

Knows nothing of how the audio was made. Mishears a clean teacher by 0.2 to 0.3: read differences, not levels.
"""

from __future__ import annotations

import re

import jiwer
import numpy as np
import pocketsphinx
import soxr

from training.clock import RATE_HZ

_LISTENER_HZ = 16000


def words(text: str) -> str:
    """Lower-case words only."""
    return " ".join(re.findall(r"[a-z']+", re.sub(r"<[a-z]+>", " ", text.lower().replace("-", " "))))


def is_plain(text: str) -> bool:
    """Whether the text is words only, so that what was heard can be compared with it."""
    return not re.search(r"[0-9<>$%&]", text) and len(words(text).split()) >= 4


class Listener:
    """Pocketsphinx's standard American English model, one sentence at a time."""

    def __init__(self) -> None:
        self._decoder = pocketsphinx.Decoder(samprate=_LISTENER_HZ, loglevel="FATAL")

    def hear(self, audio: np.ndarray, rate_hz: int = RATE_HZ) -> str:
        """What was said, in lower case; empty where nothing was understood."""
        pcm = soxr.resample(audio.astype(np.float64), rate_hz, _LISTENER_HZ)
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(pcm, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return heard.hypstr if heard else ""


def word_error_rate(texts: list[str], heard: list[str]) -> float:
    """Errors over the words of all texts together."""
    return float(jiwer.wer([words(text) for text in texts], [words(one) or "-" for one in heard]))
