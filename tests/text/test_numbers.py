import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.text import segment_text
from orpheus.text.numbers import MAX_NUMBERS, verbalize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("21 and 1,234", "twenty-one and one thousand, two hundred and thirty-four"),
        ("3.14 and 3.50", "three point one four and three point five zero"),
        ("-5 degrees", "minus five degrees"),
        ("1st, 22nd", "first, twenty-second"),
        ("in 1999 and 2024.", "in nineteen ninety-nine and twenty twenty-four."),
        ("the 1990s", "the nineteen nineties"),
        ("3:30 pm, 3:05, 5:00, 5:00 p.m.", "three thirty pm, three oh five, five o'clock, five p.m."),
        (
            "$5.20, $1, £3, €1.01",
            "five dollars and twenty cents, one dollar, three pounds, one euro and one cent",
        ),
        ("$5.2 million", "five point two million dollars"),
        ("50% of it", "fifty percent of it"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("+1 555 123 4567", "one, five five five, one two three, four five six seven"),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        ("007", "zero zero seven"),
        ("1234567890", "one two three four five six seven eight nine zero"),
        ("COVID-19", "COVID-nineteen"),
    ],
)
def test_english_numbers_are_written_out(text: str, expected: str) -> None:
    assert verbalize(text, "en") == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        (
            "fr",
            "1 234,5 le 1er et la 1re",
            "mille deux cent trente-quatre virgule cinq le premier et la première",
        ),
        (
            "fr",
            "14:30 et 5,20 € et 50 %",
            "quatorze heures trente et cinq euros vingt centimes et cinquante pour cent",
        ),
        ("de", "1.234,5 und 1 €", "eintausendzweihundertvierunddreißig Komma fünf und ein Euro"),
        ("de", "1999 um 14:30", "neunzehnhundertneunundneunzig um vierzehn Uhr dreißig"),
        ("es", "21 y 5,20 € y 1ª", "veintiuno y cinco euros con veinte céntimos y primera"),
        ("it", "21 e 1 € e 50%", "ventuno e un euro e cinquanta per cento"),
        ("ko", "21 그리고 50%", "이십일 그리고 오십 퍼센트"),
    ],
)
def test_other_languages_have_their_own_words(language: str, text: str, expected: str) -> None:
    assert verbalize(text, language) == expected


@pytest.mark.parametrize(
    "text", ["v1.2.3", "1.2.3", "2024-01-15", "12/25/2024", "A4", "3x", "10:30:15", "1990-1995"]
)
def test_ambiguous_numbers_keep_their_digits(text: str) -> None:
    assert verbalize(text, "en") == text


@pytest.mark.parametrize("language", ["hi", "zh", "xx"])
def test_a_language_without_number_words_keeps_digits(language: str) -> None:
    assert verbalize("21", language) == "21"


def test_numbers_are_left_to_the_model_unless_asked() -> None:
    assert segment_text("I have 21 of them.", "en", 110).segments[0].text == "I have 21 of them."
    normalized = segment_text("I have 21 of them.", "en", 110, normalize=True)
    assert normalized.segments[0].text == "I have twenty-one of them."


def test_beyond_a_limit_numbers_stay_digits() -> None:
    assert verbalize("7 " * (MAX_NUMBERS + 3), "en").count("7") == 3


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("0123456789.,:-+$€%() apmst1º/"), max_size=40),
    st.sampled_from(["en", "fr", "de", "es", "it", "ko"]),
)
def test_any_digits_can_be_verbalized(text: str, language: str) -> None:
    assert bool(verbalize(text, language).strip()) == bool(text.strip())
