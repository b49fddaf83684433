import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orpheus.text import characters, entities, markup


def strip(text: str) -> str:
    return markup.strip_inline(markup.strip_blocks(characters.normalize(entities.decode(text))))


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3 * 4 is 24",
        "2**3 and a 5* hotel",
        "snake_case and other_names_too",
        "a < b > c",
        "I <laugh> did",
        "f***ing",
        "1986. A great year.",
        "f[i](x) and [1, 2, 3]",
        "[note]: this is no link",
        "C:\\Users\\foo",
        "AT&T and R&D; so",
        "#hashtag @name",
        "a | b",
        "~5 minutes",
        "3 - 2 + 1",
        "it's 50% & more",
        "(Really.) Yes: so; it is!",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert strip(text) == text


def test_indented_lines_are_text_and_not_code() -> None:
    assert strip("    Some words here") == "Some words here"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**bold**, *it*, __bold__, _it_, ***both***", "bold, it, bold, it, both"),
        ("un**believ**able 这是**重点**内容", "unbelievable 这是重点内容"),
        ("`code_x` and ``more``", "code_x and more"),
        ("~~gone~~ \\*stars\\*", "gone *stars*"),
        ("[text](https://x.com/a_b) and ![alt](pic.png)", "text and alt"),
        ('[text](https://en.wikipedia.org/wiki/A_(b) "Title")', "text"),
        ("<https://x.com> <joe@x.com>", "https://x.com joe@x.com"),
        ("caf&eacute;&nbsp;&amp; more&#33;", "café\xa0& more!"),
        ("A note.[^1]", "A note."),
        ("She left :) and smiled ;-)", "She left and smiled"),
        ("fill in ____ here", "fill in   here"),
    ],
)
def test_markup_within_a_line_is_removed(text: str, expected: str) -> None:
    assert strip(text) == expected or strip(text).split() == expected.split()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("# Title #\nText", ["Title", "", "Text"]),
        ("Title\n=====\nText", ["Title", "", "Text"]),
        ("- one\n* two\n+ three\n• four\n- [x] five", ["one", "two", "three", "four", "five"]),
        ("1. one\n2) two", ["1. one", "2) two"]),
        ("> a quote\n> goes on", ["a quote goes on"]),
        ("| a | b |\n|---|:-:|\n| c | d |", ["a, b", "", "c, d"]),
        ("Before.\n```python\nx = 1\n```\nAfter.", ["Before.", "", "x = 1", "", "After."]),
        ("Before.\n~~~ c++\nx\n~~~\nAfter.", ["Before.", "", "x", "", "After."]),
        ("```yes", ["yes"]),
        ("One.\n\n\n\nTwo.", ["One.", "", "Two."]),
        ("One.\n***\nTwo.", ["One.", "", "Two."]),
        ("- an item that\n  goes on\n- next", ["an item that goes on", "next"]),
    ],
)
def test_each_block_becomes_a_line(text: str, lines: list[str]) -> None:
    assert strip(text).split("\n") == lines


def test_wrapped_lines_are_joined_and_the_lines_of_a_poem_are_not() -> None:
    wrapped = "This is a line of an ordinary letter that was wrapped at\nSeventy characters or so."
    assert "\n" not in strip(wrapped)
    assert strip("Roses are red\nViolets are blue\nand so on") == "Roses are red\nViolets are blue and so on"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "B2", "*", "_", "`", "#", "-", ">", "|", "1.", "\n", " ", "~", "\\", ":)"]),
        max_size=60,
    )
)
def test_removing_markup_removes_no_letter_or_digit(parts: list[str]) -> None:
    text = "".join(parts)
    assume("```" not in text and "~~~" not in text)  # the language named after a fence is removed
    assert [c for c in strip(text) if c.isalnum()] == [c for c in text if c.isalnum()]
