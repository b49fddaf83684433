import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.text import math, segment_text

LANGUAGES = ["en", "fr", "de", "es", "it", "ko", "hi", "zh"]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_dollars_around_a_formula_are_never_money(language: str, normalize: bool) -> None:
    text = r"A $n^2$ B $$x = 1$$ C \(y_1\) D \[\frac{a}{b}\] E"
    spoken = " ".join(
        segment.text for segment in segment_text(text, language, 280, normalize=normalize).segments
    )
    assert not set("$\\^{}_=") & set(spoken)
    assert not any(word in spoken.lower() for word in ("dol", "dól", "달러"))


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "Between $5-$10, or 10$ each.",
        "He paid $5, she paid 5$.",
        "Set $PATH and $HOME now.",
        "US$5 and A$7$",
        "$5 or 10$",
        "C:\\Users\\name",
        r"See \[this note\] and \(that\).",
        "$$ money $$",
        "$",
    ],
)
def test_prices_and_other_dollars_are_no_formulas(text: str) -> None:
    assert math.read_formulas(text, "en") == text


@pytest.mark.parametrize(
    "formula",
    [
        r"$\begin{cases} a \end{cases}$",
        r"$\unknown{x}$",
        "$x^$",
        "$" + "{" * 50 + "x" + "}" * 50 + "$",
        r"$\frac{a}$",
    ],
)
def test_a_formula_that_is_not_understood_is_left_out_as_a_whole(formula: str) -> None:
    assert math.read_formulas(f"So {formula} it is", "en") == "So  it is"


def test_an_escaped_dollar_is_a_dollar() -> None:
    assert math.read_formulas(r"\$5 and \$6", "en") == "$5 and $6"


@pytest.mark.parametrize(
    ("text", "open_"),
    [
        ("The $n", True), ("is $x = 1. ", True), (r"\[ a = b. ", True), ("costs $5, and", False),
        ("is $x^2$ and", False), ("set $HOME and then", False), ("$x\n\nNext", False), ("plain", False),
    ],
)  # fmt: skip
def test_a_formula_is_open_until_it_is_closed_or_turns_out_to_be_none(text: str, open_: bool) -> None:
    assert math.is_open(text) == open_


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("$\\{}^_()[]frac sqrtx12+=\n"), max_size=60), st.sampled_from(LANGUAGES))
def test_any_formula_can_be_read(text: str, language: str) -> None:
    math.read_formulas(text, language)
    math.is_open(text)
    math.read_arithmetic(text, language, str.isdecimal)
