"""Audio and its text → the words recognized and how many are wrong, by pocketsphinx, whose model is in its wheel.

On clean speech of the teacher its word error rate is 0.2 to 0.4: read differences, not levels.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jiwer
import numpy as np

from orpheus.tts.encode import open_encoder

LISTENER_HZ = 16_000
FRAMES_A_SECOND = 100  # of the listener


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


def _recogniser() -> Any:
    from pocketsphinx import Decoder

    # cmn batch: by default what it heard before changes what it hears next
    return Decoder(samprate=LISTENER_HZ, cmn="batch", loglevel="FATAL")


_free = cache(_recogniser)  # hears
_told = cache(_recogniser)  # another, which is told the words and finds when they are said


def _listen(decoder: Any, samples: np.ndarray, rate_hz: int) -> Any:
    decoder.start_utt()
    decoder.process_raw(for_listener(samples, rate_hz).tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp()


def hear(samples: np.ndarray, rate_hz: int = 24_000) -> str:
    """The words in mono samples, int16 or float, in lower case; empty if nothing was understood."""
    hypothesis = _listen(_free(), samples, rate_hz)
    return hypothesis.hypstr if hypothesis else ""


def knows(text: str) -> bool:
    """Whether every word of `text` is in the listener's dictionary."""
    return all(_told().lookup_word(word) is not None for word in words(text).split())


def when_said(samples: np.ndarray, text: str, rate_hz: int = 24_000) -> np.ndarray:
    """(words, 2): start and end in seconds of each word of `text`, all known; (0, 2) if they cannot be found."""
    _told().set_align_text(words(text))
    found = _told().seg() if _listen(_told(), samples, rate_hz) else None
    spans = [
        (one.start_frame, one.end_frame + 1) for one in found or () if not one.word.startswith(("<", "("))
    ]
    return np.array(spans, float).reshape(-1, 2) / FRAMES_A_SECOND


def understood(text: str, heard: str) -> tuple[np.ndarray, float]:
    """(words,) whether each word of `text` is among those heard, with no other beside it; and the word error rate."""
    found = jiwer.process_words(words(text), heard)
    right = np.zeros(len(words(text).split()), bool)
    for chunk in found.alignments[0]:
        if chunk.type == "equal":
            right[chunk.ref_start_idx : chunk.ref_end_idx] = True
    for chunk in found.alignments[0]:
        if chunk.type == "insert":
            right[max(chunk.ref_start_idx - 1, 0) : chunk.ref_start_idx + 1] = False
    return right, float(found.wer)


def word_error_rate(said: list[str], heard: list[str]) -> float:
    """Errors over the words of all texts together; 0 is perfect."""
    return float(jiwer.wer([words(text) for text in said], [words(text) for text in heard]))
