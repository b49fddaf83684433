import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus import vocabulary
from orpheus.errors import WeightsError
from orpheus.vocabulary import TokenTextParser, Vocabulary, number_of, slot_and_code, token_text


@given(st.integers(0, 6), st.integers(0, 4095))
def test_slot_and_code_are_read_back_from_the_token_itself(slot: int, code: int) -> None:
    assert slot_and_code(number_of(slot, code)) == (slot, code)


@pytest.mark.parametrize("number", [0, 2, 9, 28682, 10**9, -1])
def test_numbers_outside_the_audio_range_have_no_slot(number: int) -> None:
    assert slot_and_code(number) is None


def test_the_edges_of_the_published_vocabulary() -> None:
    assert slot_and_code(10) == (0, 0)
    assert slot_and_code(28681) == (6, 4095)
    assert vocabulary.numbers_from_published_ids([65, 128266, 156937, 128258]) == [10, 28681, 2]


@given(st.lists(st.integers(0, 28681), max_size=30), st.data())
def test_tokens_are_read_however_the_text_is_split(numbers: list[int], data: st.DataObject) -> None:
    text = "".join(token_text(number) for number in numbers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parser = TokenTextParser()
    read = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        read += parser.parse(text[start:end])
    assert read == numbers


def test_text_around_tokens_and_endless_text_without_any_are_skipped() -> None:
    parser = TokenTextParser()
    assert parser.parse("hm <custom_token_12> <oops <custom_tok") == [12]
    assert parser.parse("en_13>") == [13]
    assert parser.parse("<" * 100_000) == []
    assert parser.parse("a" * 100_000) == []
    assert parser.parse("<custom_token_14>") == [14]


def test_a_frame_goes_to_the_three_code_rows_in_time_order() -> None:
    coarse, middle, fine = vocabulary.frame_to_layers(np.arange(14).reshape(2, 7))
    assert coarse.tolist() == [0, 7]
    assert middle.tolist() == [1, 4, 8, 11]
    assert fine.tolist() == [2, 3, 5, 6, 9, 10, 12, 13]


def _tokens(codes: int = 3) -> list[str]:
    control = ["<|begin_of_text|>", "<|eot_id|>", *(token_text(n) for n in range(8))]
    audio = [token_text(number_of(slot, code)) for slot in range(7) for code in range(codes)]
    return ["a", "b", *control, *audio, "<|audio|>"]


def test_ids_follow_the_token_list_whatever_its_size() -> None:
    found = Vocabulary.from_tokens(_tokens(), "x")
    assert found.codes == 3
    assert found.size == len(_tokens())
    for token_id, text in enumerate(_tokens()):
        number = found.number_of_id(token_id)
        assert (token_text(number) if number is not None else None) == (
            text if text.startswith("<custom") else None
        )
        if number is not None:
            assert found.id_of(number) == token_id
    with pytest.raises(KeyError):
        found.id_of(number_of(0, 3))


def test_a_slot_may_begin_with_a_code_other_than_0() -> None:
    firsts = (0, 0, 0, 5, 5, 0, 4093)
    control = ["<|begin_of_text|>", "<|eot_id|>", *(token_text(n) for n in range(8))]
    audio = [
        token_text(number_of(slot, first + code)) for slot, first in enumerate(firsts) for code in range(3)
    ]
    found = Vocabulary.from_tokens([*control, *audio], "x")
    assert (found.codes, found.span, found.first_codes) == (3, 4096, firsts)
    for token_id, text in enumerate(audio, len(control)):
        number = found.number_of_id(token_id)
        assert number is not None
        assert token_text(number) == text
        assert found.id_of(number) == token_id
    for number in (number_of(3, 4), number_of(3, 8), number_of(6, 0)):
        with pytest.raises(KeyError):
            found.id_of(number)


@pytest.mark.parametrize("missing", [{"<custom_token_2>"}, {"<|eot_id|>"}, set(_tokens()[12:15])])
def test_a_vocabulary_without_a_needed_token_is_refused_by_its_name(missing: set[str]) -> None:
    tokens = ["gone" if token in missing else token for token in _tokens()]
    with pytest.raises(WeightsError, match=r"ORPHEUS_MODEL") as caught:
        Vocabulary.from_tokens(tokens, "some.gguf")
    assert min(missing) in str(caught.value)


def test_a_vocabulary_with_unequal_slots_is_refused() -> None:
    tokens = _tokens()
    tokens[tokens.index(token_text(number_of(3, 2)))] = "gone"
    with pytest.raises(WeightsError, match="damaged"):
        Vocabulary.from_tokens(tokens, "some.gguf")


# Llama 3.2 and the vocabularies that VyvoTTS adds the same tokens to, each with the ids of its training configuration.
BASES = {
    "llama": (128_256, {"<|begin_of_text|>": 128_000, "<|eot_id|>": 128_009}),
    "qwen3": (151_669, {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645}),
    "lfm2": (64_400, {"<|startoftext|>": 1, "<|endoftext|>": 2, "<|im_start|>": 6, "<|im_end|>": 7}),
}
STARTS = {"llama": 128_266, "qwen3": 151_679, "lfm2": 64_410}
BOUNDS = {"llama": (128_000, 128_009), "qwen3": (151_643, 151_645), "lfm2": (1, 7)}


def _finetuned(base: str, *, named: bool) -> list[str]:
    """The token list of a GGUF: without names, llama.cpp's converter fills up with [PADn]."""
    size, specials = BASES[base]
    tokens = [f"text {number}" for number in range(size)]
    for text, token_id in specials.items():
        tokens[token_id] = text
    count = 10 + 7 * 4096
    return tokens + [token_text(n) if named else f"[PAD{size + n}]" for n in range(count)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("base", BASES)
def test_speech_begins_where_the_vocabulary_of_the_language_model_ends(base: str, named: bool) -> None:
    found = Vocabulary.from_tokens(_finetuned(base, named=named), "some.gguf")
    assert found.id_of(number_of(0, 0)) == STARTS[base]
    assert found.code_ids[6].stop == STARTS[base] + 7 * 4096
    assert found.end_of_speech == BASES[base][0] + 2
    assert (found.begin_of_text, found.end_of_turn) == BOUNDS[base]
    assert found.codes == 4096


def test_a_prompt_of_ones_own_finds_the_tokens_of_any_vocabulary() -> None:
    found = Vocabulary.from_tokens(_finetuned("qwen3", named=False), "some.gguf")
    ids = [
        found.control_id(text)
        for text in ("<custom_token_3>", "<|begin_of_text|>", "<|eot_id|>", "<custom_token_10>")
    ]
    assert ids == [151_672, 151_643, 151_645, 151_679]
    assert found.control_id("<custom_token_99999>") is None
    assert found.control_id("hello") is None


@pytest.mark.parametrize("base", BASES)
def test_a_model_that_only_has_room_for_speech_is_no_orpheus(base: str) -> None:
    unnamed = _finetuned(base, named=False)
    for tokens in (unnamed[:-1], unnamed[: BASES[base][0]], [*unnamed[:-5], "other", *unnamed[-4:]]):
        with pytest.raises(WeightsError, match="is not an Orpheus model"):
            Vocabulary.from_tokens(tokens, "some.gguf")
