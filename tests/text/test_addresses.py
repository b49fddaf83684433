import pytest

from orpheus.text.addresses import verbalize


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("https://www.example.com/pricing?x=1", "example dot com slash pricing"),
        ("See example.com.", "See example dot com."),
        ("(http://example.com/a/b-c), ok", "(example dot com slash a slash b c), ok"),
        ("https://x.com/watch?v=dQw4w9WgXcQ&t=1", "x dot com slash watch"),
        ("https://x.com/0a8f7e/d41d8cd98f00b204", "x dot com"),
        ("http://localhost:8080/docs", "localhost 8080 slash docs"),
        ("http://192.168.0.1/", "192 dot 168 dot 0 dot 1"),
        ("https://me:secret@example.com/", "example dot com"),
        ("joe.smith_1@mail.example.co.uk!", "joe dot smith underscore 1 at mail dot example dot co dot uk!"),
        ("mailto:joe@example.com", "joe at example dot com"),
        ("github.com/foo/bar", "github dot com slash foo slash bar"),
        ("请看https://example.com。谢谢", "请看example dot com。谢谢"),
    ],
)
def test_an_address_is_read_as_a_person_would(text: str, spoken: str) -> None:
    assert verbalize(text, "en") == spoken


@pytest.mark.parametrize(
    "text",
    ["The end.He left", "Node.js v1.2.3", "e.g. this", "5 p.m.", "a@b", "3.50", "etc..", "@name", "U.S.A."],
)
def test_what_is_not_an_address_is_left_alone(text: str) -> None:
    assert verbalize(text, "en") == text


def test_an_address_is_read_in_the_language_of_the_text() -> None:
    assert verbalize("joe@example.com", "fr") == "joe arobase example point com"
    assert verbalize("example.de/preise", "de") == "example Punkt de Schrägstrich preise"
    assert verbalize("example.com", "xx") == "example dot com"
