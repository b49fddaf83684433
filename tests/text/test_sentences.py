import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.text.sentences import early_clause_end, length, split_long, split_sentences


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Dr. Smith paid 3.50 at 5 p.m. to Mr. Jones of Node.js."),
        ("en", "J. K. Rowling went to the U.S. in Jan. 3 of that year."),
        ("en", 'He said, "I am here. You are not." and left.'),
        ("en", "It was late (really. It was.) and dark."),
        ("fr", "M. Dupont et Mme. Hugo, p. ex., sont venus avec le Dr. Ney."),
        ("de", "Lieber Herr Dr. Müller, z. B. am 3. Mai kommen ca. 20 Leute."),
        ("es", "El Sr. López vive aquí con la Dra. Ruiz y Ud. lo sabe."),
        ("it", "Il Sig. Rossi e la Dott.ssa Bianchi con il Prof. Verdi."),
        ("zh", "「行くよ。早く。」と言ったのでみんなで行った。"),
    ],
)
def test_abbreviations_decimals_and_quotes_do_not_end_a_sentence(language: str, text: str) -> None:
    assert list(split_sentences(text, language)) == [text]


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("en", "This is one sentence here. That is the second of them! Or were there three of them?", 3),
        ("zh", "今天天气很好，我们去公园。你觉得怎么样呢？那太好了！", 3),
        ("hi", "यह पहला वाक्य है और लंबा है। यह दूसरा वाक्य है, है ना? हाँ, यह तीसरा वाक्य है।", 3),
        ("es", "Este es el primero de ellos. ¿Y cómo estás tú hoy? ¡Qué bien que has venido!", 3),
    ],
)
def test_sentence_ends_are_found_in_every_script(language: str, text: str, count: int) -> None:
    assert len(list(split_sentences(text, language))) == count


def test_a_sentence_is_not_cut_at_the_edge_of_a_window() -> None:
    text = "This is a sentence of a few words. " * 400
    assert set(split_sentences(text, "en")) == {"This is a sentence of a few words. "}


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("ab .,!?。，我\"'()\u0301कि\ue000"), min_size=1, max_size=300),
    st.sampled_from([20, 50]),
    st.sampled_from(["en", "fr", "zh"]),
)
def test_the_parts_concatenated_are_the_text(text: str, max_chars: int, language: str) -> None:
    assert "".join(split_sentences(text, language)) == text
    parts = list(split_long(text, max_chars, language))
    assert "".join(parts) == text
    assert all(length(part) <= max_chars for part in parts)


def test_a_long_sentence_is_split_at_a_sentence_end_or_else_a_clause_end_or_else_a_space() -> None:
    assert next(split_long("one two three four. five six, seven eight nine", 30, "en")) == "one two three four. "
    assert next(split_long("one two three four, five six seven eight nine", 30, "en")) == "one two three four, "
    assert next(split_long("one two three four five six seven eight nine", 30, "en")).endswith(" ")


def test_splitting_leaves_no_fragment() -> None:
    parts = list(split_long("word " * 30 + "no", 145, "en"))
    assert len(parts) == 2
    assert len(parts[1]) >= 20


def test_splitting_separates_no_letter_from_its_vowel_sign() -> None:
    assert all(not part.startswith("ि") for part in split_long("कि" * 100, 21, "en"))


def test_an_early_clause_is_neither_short_nor_nearly_all_of_the_sentence() -> None:
    assert early_clause_end("Well, when we came home from there, it rained, and we slept.", "en") == len(
        "Well, when we came home from there, "
    )
    assert early_clause_end("Well, yes, no, but he came home at last to us", "en") == 0
    assert early_clause_end("When we had come home from there, ok.", "en") == 0
