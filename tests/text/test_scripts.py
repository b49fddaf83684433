from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest
from orpheus.text import characters, segment_text
from orpheus.text.scripts import leave_out

LANGUAGES = ["en", "fr", "de", "es", "it", "ko", "hi", "zh"]
GREETINGS = {
    "Cyrillic": "Здравствуйте",
    "Greek": "Γειά σου",
    "Arabic": "مرحبا",
    "Hebrew": "שָׁלוֹם",
    "Thai": "สวัสดี",
    "Hindi": "नमस्ते",
    "Japanese": "こんにちは",
    "Korean": "안녕하세요",
    "Chinese": "你好",
    "Armenian": "Բարև",
    "Georgian": "გამარჯობა",
    "Bengali": "নমস্কার",
    "Tamil": "வணக்கம்",
    "Ethiopic": "ሰላም",
}
OWN = {"ko": "Korean", "hi": "Hindi", "zh": "Chinese"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("script", GREETINGS)
def test_a_word_between_two_is_left_out_unless_the_language_has_its_letters(
    language: str, script: str
) -> None:
    word = GREETINGS[script]
    left, count = leave_out(f"One {word} two.", language)
    if OWN.get(language) == script:
        assert (left, count) == (f"One {word} two.", 0)
    else:
        assert left == "One two."
        assert count == sum(unicodedata.category(letter)[0] in "LM" for letter in word)


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_with_diacritics_of_any_latin_language_are_kept(language: str) -> None:
    names = "Łukasz Dvořák Nguyễn Åsa İstanbul Þór Ștefan Ağaoğlu Żółć Māori Ħamrun ŠKODA Œuvre Straße ĳ"
    assert leave_out(names, language) == (names, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello (你好, “世界”)!", "Hello!"),
        ("Hello [你好] {世界} 《书》 there", "Hello there"),
        ("See: 你好", "See"),
        ("Yes - 你好 - no", "Yes - no"),
        ("Yes/你好/no", "Yes no"),
        ("你好: the word", "the word"),
        ("你好！ The word", "The word"),
        ('He said: "你好!" and "hi 你好".', 'He said: and "hi".'),
        ("It is #你好 @世界 now.", "It is now."),
        ("你好\nHello\n世界\n\nBye", "Hello\n\nBye"),
        ("2023年5月3日\nHello", "Hello"),
        ("Hello there. 3月。 Bye", "Hello there. Bye"),
        ("((你好))", ""),
        ("Сomе", "Come"),
        ("x² + ½ 1º №5", "x² + ½ 1º №5"),
        ("Ĳ 5 µm and 3 kΩ", "Ĳ 5 µm and 3 kΩ"),
        ("Ω and ∑ and Σ", "omega and ∑ and sigma"),
    ],
)
def test_no_punctuation_bracket_or_space_of_what_is_left_out_remains(text: str, expected: str) -> None:
    assert leave_out(characters.normalize(text), "en")[0] == expected


def test_a_japanese_sentence_is_not_read_as_chinese() -> None:
    assert leave_out("今日はいい天気ですね。很好。", "zh")[0] == "很好。"
    with pytest.raises(BadRequest, match="Japanese"):
        segment_text("今日はいい天気ですね。", "zh", 280)


def test_a_paragraph_that_is_left_out_has_no_pause() -> None:
    with_it = segment_text(
        "A first paragraph stands here.\n\n你好，世界。\n\nAnd a second is here.", "en", 280
    )
    without = segment_text("A first paragraph stands here.\n\nAnd a second is here.", "en", 280)
    assert [(part.text, part.pause_ms) for part in with_it.segments] == [
        (part.text, part.pause_ms) for part in without.segments
    ]
    poem = segment_text("A first line stands here.\n你好，世界。\nAnd a second is here.", "en", 280)
    assert [part.pause_ms for part in poem.segments] == [300, 0]


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("aéZ1. ,()\"'-你好のαΩμд한नम्\u200d\n") | st.characters(), max_size=80),
    st.sampled_from([*LANGUAGES, "xx"]),
)
def test_what_remains_can_be_spoken_and_nothing_latin_is_lost(text: str, language: str) -> None:
    text = characters.normalize(text)
    left, count = leave_out(text, language)
    _, more = leave_out(left, language)
    assert more == 0
    assert "\x1f" not in left
    if not count:
        assert len(left) >= len(text) - text.count("\u200c") - text.count("\u200d")
    latin = [letter for letter in text if letter.isascii() and letter.isalpha()]
    assert len([letter for letter in left if letter.isascii() and letter.isalpha()]) >= len(latin)


JUNK = ["你", "你 ", "(你", "(你)", '"你', "'你", "你1 ", "((", "1,", "α ", "aа", "你\n", "のは漢", "你's", " ", "，", "é\u0301\u0316", "&#",
        "&amp;", "&#55357;", "a`", "①", "\ufe0f"]  # fmt: skip


@pytest.mark.parametrize("unit", JUNK)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_megabyte_of_junk_takes_linear_time(unit: str, language: str) -> None:
    """In CPU time, which does not count other processes: under a second, or minutes where it is quadratic."""
    text = unit * (1_000_000 // len(unit)) + "你"
    start_s = time.process_time()
    leave_out(characters.normalize(text), language)
    assert time.process_time() - start_s < 10
