"""What the published models and their codec were made with, by the makers' own repositories, number by number.

None of it needs their weights. A change that breaks one of these would speak noise, or nothing, on a GPU alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from snac import SNAC

from orpheus.codec.checkpoint import PUBLISHED as PUBLISHED_CODEC
from orpheus.codec.checkpoint import read_config
from orpheus.codec.decoder import Decoder
from orpheus.llama.prompt_tokens import prompt_ids
from orpheus.prompt import turn_text
from orpheus.vocabulary import PUBLISHED_TOKENS, Vocabulary, number_of, token_text
from tests.support.random_snac import PUBLISHED, save_random_snac

TEXT_TOKENS = 128_256  # of Llama 3.2, its special tokens included
CUSTOM_TOKENS = 28_682
SIZE = 156_940


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Read from a list of the published tokens."""
    tokens = [f"text {number}" for number in range(TEXT_TOKENS)]
    tokens[128_000], tokens[128_009] = "<|begin_of_text|>", "<|eot_id|>"
    tokens += [token_text(number) for number in range(CUSTOM_TOKENS)]
    tokens += ["<|audio|>", "<|pad|>"]
    return Vocabulary.from_tokens(tokens, "published.gguf")


def test_its_size_tells_it_from_others(vocabulary: Vocabulary) -> None:
    assert vocabulary.size == SIZE >= PUBLISHED_TOKENS
    assert vocabulary.codes == 4096


def test_every_code_of_a_slot_has_the_id_of_the_training_data(vocabulary: Vocabulary) -> None:
    for slot, ids in enumerate(vocabulary.code_ids):
        assert ids == range(128_266 + 4096 * slot, 128_266 + 4096 * (slot + 1))
    assert vocabulary.id_of(number_of(6, 4095)) == 156_937
    assert vocabulary.first_codes == (0,) * 7


def test_speech_ends_at_its_own_token_and_not_at_the_texts(vocabulary: Vocabulary) -> None:
    assert (vocabulary.end_of_speech, vocabulary.begin_of_text, vocabulary.end_of_turn) == (
        128_258,
        128_000,
        128_009,
    )


def test_a_prompt_is_the_turn_of_the_training_data(vocabulary: Vocabulary) -> None:
    """Start of human, begin of text, the text, end of turn, end of human, start of AI, start of speech."""

    class Model:
        def __init__(self) -> None:
            self.vocabulary = vocabulary

        def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
            assert not add_bos
            assert not parse_special
            return list(text.encode())

    model: Any = Model()
    text = list(b"tara: Hello.")
    assert prompt_ids(model, turn_text("tara", "Hello.")) == (
        128_259,
        128_000,
        *text,
        128_009,
        128_260,
        128_261,
        128_257,
    )


@pytest.fixture(scope="module")
def published_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with the published names and shapes."""
    return save_random_snac(tmp_path_factory.mktemp("published") / "snac", **PUBLISHED)


def test_the_published_codec_has_the_names_and_shapes_that_are_read(published_codec: Path) -> None:
    assert read_config(published_codec) == PUBLISHED_CODEC
    tensors = SNAC.from_config(str(published_codec / "config.json")).state_dict()
    assert len(tensors) == 269
    up = "decoder.model.2.block.1.parametrizations.weight.original"
    assert tensors[f"{up}1"].shape == (1024, 512, 16)
    assert tensors[f"{up}0"].shape == (1024, 1, 1)  # the norm, over all but the first dimension, here too
    size = (published_codec / "pytorch_model.bin").stat().st_size
    assert size == pytest.approx(79_488_254, rel=0.001)
    decoder = Decoder.load(published_codec)
    assert (decoder.hop, decoder.config.codes) == (512, 4096)
