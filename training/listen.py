"""Audio and the text it should say → the words heard and how many are wrong, by pocketsphinx: its model is in its wheel.

Knows nothing of how the audio was made. Mishears a clean teacher by 0.2 to 0.4: read differences, not levels.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jiwer
import numpy as np

from orpheus.encode import open_encoder

LISTENER_HZ = 16_000


def words(text: str) -> str:
    """Lower-case words only."""
    return " ".join(re.findall(r"[a-z']+", re.sub(r"<[a-z]+>", " ", text.lower().replace("-", " "))))


def is_plain(text: str) -> bool:
    """Whether the text is words only, so that what was heard can be compared with it."""
    return not re.search(r"[0-9<>$%&]", text) and len(words(text).split()) >= 4


def for_listener(samples: np.ndarray, rate_hz: int = 24_000) -> np.ndarray:
    """Mono int16, or float in [-1, 1] → int16 at 16 kHz."""
    if samples.dtype == np.int16:
        samples = samples / np.float32(32767)
    encoder = open_encoder("pcm", source_rate=rate_hz, sample_rate=LISTENER_HZ)
    data = encoder.write(np.clip(samples, -1, 1).astype(np.float32)) + encoder.flush()
    return np.frombuffer(data, "<i2")


@cache
def _recogniser() -> Any:
    from pocketsphinx import Decoder

    # cmn batch: by default what it heard before changes what it hears next
    return Decoder(samprate=LISTENER_HZ, cmn="batch", loglevel="FATAL")


def hear(samples: np.ndarray, rate_hz: int = 24_000) -> str:
    """The words in mono samples, int16 or float, in lower case; empty where nothing was understood."""
    decoder = _recogniser()
    decoder.start_utt()
    decoder.process_raw(for_listener(samples, rate_hz).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def word_error_rate(said: list[str], heard: list[str]) -> float:
    """Errors over the words of all texts together; 0 is perfect."""
    return float(jiwer.wer([words(text) for text in said], [words(text) for text in heard]))
