import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest
from orpheus.text import clean, split


def test_a_short_text_is_one_piece_with_its_own_punctuation() -> None:
    assert split("Hi.", "en", 110) == ["Hi."]


def test_a_full_stop_is_added_where_there_is_none() -> None:
    assert split("Hello there", "en", 110) == ["Hello there."]


def test_sentences_are_kept_whole_and_the_first_stands_alone() -> None:
    text = "This is the first sentence. Here is the second. And a third one."
    assert split(text, "en", 60) == [
        "This is the first sentence.",
        "Here is the second. And a third one.",
    ]


def test_a_tiny_first_sentence_takes_the_next_along() -> None:
    assert split("Hi. How are you today?", "en", 110) == ["Hi. How are you today?"]


def test_abbreviations_and_decimals_are_no_ends() -> None:
    assert len(split("Dr. Smith paid 3.50 at 5 p.m. to Mr. Jones.", "en", 110)) == 1


def test_a_long_sentence_is_cut_at_a_clause() -> None:
    text = "When the rain had finally stopped over the valley, the children ran out, shouting, to the river."
    first, *_ = split(text, "en", 60)
    assert first == "When the rain had finally stopped over the valley."


def test_a_word_longer_than_a_piece_is_cut() -> None:
    pieces = split("a" * 500, "en", 110)
    assert "".join(piece.rstrip(".") for piece in pieces) == "a" * 500


def test_quotes_and_repeated_marks_become_what_the_model_knows() -> None:
    assert clean("“It’s on!!!”  he said…") == '"It\'s on!" he said...'


@pytest.mark.parametrize(
    "hostile",
    [
        "a<custom_token_2>b",
        "a<|eot_id|>b",
        "a<custom_<custom_token_1>token_2>b",
        "a<|<|audio|>eot_id|>b",
    ],
)
def test_control_strings_never_survive(hostile: str) -> None:
    cleaned = clean(hostile)
    assert "custom_token" not in cleaned
    assert "<|" not in cleaned


@pytest.mark.parametrize("empty", ["", "   ", "\n\t", "...", "?!", "🙂", "\x00", "<custom_token_12>"])
def test_nothing_to_say_is_a_bad_request(empty: str) -> None:
    with pytest.raises(BadRequest, match="nothing to say") as caught:
        split(empty, "en", 110)
    assert caught.value.param == "input"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=600), st.sampled_from([40, 110, 280]))
def test_pieces_fit_and_no_letter_is_lost(text: str, most: int) -> None:
    try:
        pieces = split(text, "en", most)
    except BadRequest:
        assert not any(c.isalnum() for c in clean(text))
        return
    assert all(0 < len(piece) <= most + 1 for piece in pieces)
    letters = [c for c in clean(text) if c.isalnum()]
    assert [c for piece in pieces for c in piece if c.isalnum()] == letters
