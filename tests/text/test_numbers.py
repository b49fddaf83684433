import asyncio
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.text import StreamingSegmenter, segment_text
from orpheus.text.numbers import MAX_NUMBERS, is_within, verbalize

LANGUAGES = ["en", "fr", "de", "es", "it", "ko"]


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
    st.sampled_from(LANGUAGES),
)
def test_any_digits_can_be_verbalized(text: str, language: str) -> None:
    assert bool(verbalize(text, language).strip()) == bool(text.strip())


# The signs of arithmetic stand between numbers; each of those is whole.
@settings(max_examples=2000, deadline=None)
@given(
    st.text(st.sampled_from("0123456789012345678901234567890.,:-$€%()'/½x#aMkh~²°"), min_size=1, max_size=10),
    st.sampled_from(LANGUAGES),
)
def test_what_is_not_understood_as_a_whole_is_left_as_a_whole(word: str, language: str) -> None:
    if "..." in word:  # is a space
        return
    spoken = verbalize(word, language)
    assert spoken == word or not re.search(r"\d", spoken)


@pytest.mark.parametrize(
    "word",
    ["$1.2X", "$5/$10", "$5.5.5", "5abc", "H2O", "1e6", "1.2e-3", "192.168.1.1", "1-800-FLOWERS", "3-in-1", "5'10\"",
     "1,2,3", "(5),(6)", "401(k)", "5/foo", "0 000", "3D", "1080p", "1920x1080", "₭500", "5‰", "5 %ig", "5 ‰", "25:00", "2019-2024"],
)  # fmt: skip
@pytest.mark.parametrize("language", LANGUAGES)
def test_words_with_digits_in_them_are_left_alone(language: str, word: str) -> None:
    assert verbalize(f"A {word} B", language) == f"A {word} B"


@pytest.mark.parametrize("language", ["hi", "zh"])
@pytest.mark.parametrize("text", ["$1.2M", "½ 3 × 4", "(555) 123-4567", "5°C", "x² + 2 = 4"])
def test_a_language_without_number_words_keeps_every_sign(language: str, text: str) -> None:
    assert verbalize(text, language) == text


@pytest.mark.parametrize(
    ("text", "end", "within"),
    [
        ("call (555) 123-4567 now", len("call (555) "), True),
        ("about 10 000 people", len("about 10 "), True),
        ("it is $1.5 million now", len("it is $1.5 "), True),
        ("call (555) ", len("call (555) "), True),
        ("it was $5, and", len("it was $5, "), False),
        ("it was 5. Then I", len("it was 5. "), False),
        ("it was 5. The", len("it was 5. "), True),
        ("plain words here", len("plain "), False),
    ],
)
def test_an_end_within_a_number_is_known(text: str, end: int, within: bool) -> None:
    assert is_within(text, end, "en") == within
    assert not is_within(text, end, "zh")


_RANDOM = random.Random(1)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "text",
    [
        *(part * (16_384 // len(part)) for part in (
            "9", "9 ", "1,", "$", "1/", "1.", "(555) ", "1 000 ", "-", "12:30 ", "+1 ", "9 = ", "(", "½", "x² ", "$1M-",
            "1:", "...9", "code ", "a-", "I", "1. A ", "1 1/2", "4111 ", "9%-", "((9 ", "9'",
        )),
        " ".join(str(_RANDOM.randrange(10**8, 10**9)) for _ in range(1638)),
        " ".join(f"am {_RANDOM.randrange(10, 999)}. Mai" for _ in range(1300)),
        " ".join(f"{_RANDOM.randrange(10, 99_999)}th" for _ in range(2340)),
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_digits_without_end_take_little_time(text: str, language: str) -> None:
    start = time.process_time()
    verbalize(text, language)
    # 0.02 to 0.1 s on a core of 2026; a quadratic expression takes minutes.
    assert time.process_time() - start < 1


@pytest.mark.anyio
@pytest.mark.parametrize("fragment_chars", [1, 3, 7])
@pytest.mark.parametrize(
    ("language", "text"),
    [
        (
            "en",
            "They called me at (555) 123-4567 and paid $1.5 million, or 10 000 euros, on 4 July 1776 I think.",
        ),
        (
            "en",
            "In that year there were only 1995 people there and $5, and 9:30 a.m., and then 3 × 4 = 12 of them.",
        ),
        (
            "en",
            r"We know well that $f(x, y) = a, b. c$ is one of them, and \[ x = 1. \] is the other one of them.",
        ),
        (
            "de",
            "Er wurde nur 2. Platz im Rennen am 3. Mai und heute ist er 21. Anna ist aber erst 20 Jahre alt.",
        ),
        (
            "es",
            "El 1.º piso está vacío y el 1.º de mayo es fiesta a las 9:00 h de la mañana para 21 personas.",
        ),
        (
            "fr",
            "Il y a environ 10 000 personnes à 9 h 30 et 1 000 000 habitants au numéro 06 12 34 56 78 ici.",
        ),
    ],
)
async def test_numbers_and_formulas_written_live_are_read_as_those_sent_at_once(
    language: str, text: str, fragment_chars: int
) -> None:
    spoken: list[str] = []

    async def speak() -> None:
        while (segment := await segmenter.next(lambda: 0.0)) is not None:
            spoken.append(segment.text)

    segmenter = StreamingSegmenter(language, 280, max_chars=1000, normalize=True)
    speaking = asyncio.create_task(speak())
    for start in range(0, len(text), fragment_chars):
        segmenter.push(text[start : start + fragment_chars])
        await asyncio.sleep(0)
    segmenter.end()
    await speaking
    at_once = " ".join(segment.text for segment in segment_text(text, language, 280, normalize=True).segments)
    assert re.findall(r"\w+", " ".join(spoken)) == re.findall(r"\w+", at_once)


def test_a_number_may_be_written_out_in_the_forms_of_what_it_counts() -> None:
    assert verbalize("1 euro, 21 euros, 31 libras, 200 páginas", "es") == (
        "un euro, veintiún euros, treinta y una libras, doscientas páginas"
    )
    assert verbalize("80 euros, 81 pages, 80 000 €, 200 000", "fr") == (
        "quatre-vingts euros, quatre-vingt-une pages, quatre-vingt mille euros, deux cent mille"
    )
    assert verbalize("1 Euro, 1 Million, 1.001 Euro, 1 Stunde, Seite 1", "de") == (
        "ein Euro, eine Million, eintausendein Euro, eine Stunde, Seite eins"
    )
    assert verbalize("1 libro, 1 zio, 1 casa, 1 h, 21 €", "it") == (
        "un libro, uno zio, una casa, un'ora, ventuno euro"
    )
    assert verbalize("1개, 20명, 1시 1분, 1층", "ko") == "한 개, 스무 명, 한 시 일 분, 일층"
