"""A listener of the tests: pocketsphinx, whose model is in its wheel, and the word error rate of what it hears."""

from __future__ import annotations

from functools import cache
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from orpheus.encode import open_encoder


@cache
def _recogniser() -> Any:
    from pocketsphinx import Decoder

    # cmn batch: by default what it heard before changes what it hears next
    return Decoder(samprate=16_000, cmn="batch", loglevel="FATAL")


def hear(samples: NDArray[np.int16], rate: int = 24_000) -> str:
    """The words in 16-bit mono samples."""
    encoder = open_encoder("pcm", source_rate=rate, sample_rate=16_000)
    data = encoder.write(samples.astype(np.float32) / 32767) + encoder.flush()
    decoder = _recogniser()
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def word_error_rate(said: list[str], heard: list[str]) -> float:
    """Errors over words of all sentences together; 0 is perfect."""
    plain = jiwer.Compose(
        [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    )
    return float(jiwer.wer([plain(text) for text in said], [plain(text) for text in heard]))
