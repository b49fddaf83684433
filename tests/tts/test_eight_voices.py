"""The embedded voice through both tiers: each of its eight speakers is understood, and stays who he or she is."""

from __future__ import annotations

import numpy as np
import pytest

from orpheus.vocabulary import SLOTS
from tests.support.generation import codes_of, spoken
from tests.support.live import Pair
from tests.support.sentences import SENTENCES
from training.listen import hear, word_error_rate
from training.speakers import SPEAKERS

NAMES = [speaker.name for speaker in SPEAKERS]
SAID = SENTENCES[10:20]  # 73 words
PARAGRAPH = " ".join(SENTENCES[20:24])


def words_missed(text: str, heard: str) -> float:
    return word_error_rate([text], [heard])


@pytest.mark.slow
@pytest.mark.parametrize("voice", NAMES)
def test_a_recognizer_understands_it(pair: Pair, voice: str) -> None:
    """pocketsphinx, which knows nothing of our texts, hears most words, and of ten sentences knows which it was."""
    heard = [
        hear(np.frombuffer(spoken(pair.url, text, seed, voice=voice), "<i2"))
        for seed, text in enumerate(SAID)
    ]
    rate = word_error_rate(SAID, heard)
    known = [
        min(SAID, key=lambda text: words_missed(text, one)) == said
        for said, one in zip(SAID, heard, strict=True)
    ]
    print(f"{voice}: word error rate {rate:.2f}, {sum(known)} of {len(SAID)} sentences known")
    assert rate < 0.5
    assert sum(known) >= 8


@pytest.mark.slow
def test_the_speaker_does_not_change_within_a_paragraph(pair: Pair) -> None:
    """The coarse code of every frame names its speaker."""
    for place, voice in enumerate(NAMES):
        codes = codes_of(pair.llama_url, PARAGRAPH[:100], seed=1, voice=voice)
        speakers = np.array(codes[::SLOTS]) // 256
        assert np.all(speakers == place), voice


def frames_of(pair: Pair, text: str) -> float:
    """How long a text is in frames, the middle one of five seeds."""
    return float(np.median([len(codes_of(pair.llama_url, text, seed)) // SLOTS for seed in range(5)]))


def test_a_laugh_is_audible_and_other_tags_are_skipped(pair: Pair) -> None:
    plain = frames_of(pair, "That was a good day.")
    assert frames_of(pair, "<laugh> That was a good day.") > plain + 6, "half a second of ha ha"
    assert frames_of(pair, "That was <cough> a good day.") < plain + 4, "the tag is not read out"
