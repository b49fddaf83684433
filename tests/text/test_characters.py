import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus.text import entities
from orpheus.text.characters import MAX_COMBINING_MARKS, normalize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“It’s on…”  he said", '"It\'s on..." he said'),
        ("« Bonjour », dit-elle", '"Bonjour", dit-elle'),
        ("here—there", "here - there"),
        ("Great 🎉 job 👩‍👩‍👧!", "Great job!"),
        ("1️⃣ first, 👍🏽 ok 🇫🇷", "1 first, ok"),
        ("20 °C © 2020 ™", "20 °C © 2020 ™"),
        ("A\u200bB soft\u00adhyphen \ufeffx", "AB softhyphen x"),
        ("\u202eright to left\u202c", "right to left"),
        ("𝓗𝓮𝓵𝓵𝓸 Ｈｉ ７ ﬁne", "Hello Hi 7 fine"),
        ("你好！怎么样？", "你好！怎么样？"),
        ("क\u094d\u200dष", "क\u094d\u200dष"),
        ("a\x00b\ud800c\ue000d", "a b c d"),
        ("one\r\ntwo\u2028three\u2029 four", "one\ntwo\nthree\nfour"),
        ("cafe\u0301", "café"),
        ("Don&#8217;t &#128512; caf&eacute; &amp;amp;#39; &nbsp; x", "Don't café ' x"),
        ("&#x110000; &#0; &#55357; &#55357;&#56832; x", "x"),
        ("AT&T R&D; R&amp;D; ?a=1&copy=2 &bogus; a & b &", "AT&T R&D; R&D; ?a=1&copy=2 &bogus; a & b &"),
        ("un`code`able `x` d`accord", "un`code`able `x` d'accord"),
        ("‹a› «b» ❝c❞ ″d″ ＂e＂", '\'a\' "b" "c" "d" "e"'),
        ("⓪ ① ⑳ ❿ ⑴ ⒈, ⓗⓘ 🅗🅘 🄷🄸 ʜɪ Ⅳ ㎞ １ ％", "0 1 20 10 1 1, hi HI HI hi IV km 1 %"),
        ("Z̷a̷l̷g̷o̷ a\u20d7 i\u0307", "Zalgo a i"),
        ("\u3164\u115f x\U000e0100 ℹ️", "x"),
    ],
)
def test_characters_become_those_the_model_was_trained_on(text: str, expected: str) -> None:
    assert normalize(entities.decode(text)) == expected


def test_a_letter_keeps_only_a_few_combining_marks() -> None:
    assert (
        len(unicodedata.normalize("NFD", normalize("e" + "\u0301\u0316" * 50_000))) <= 1 + MAX_COMBINING_MARKS
    )


@given(st.text())
def test_normalizing_twice_changes_nothing_and_keeps_ascii_letters(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert "  " not in once
    assert len([c for c in once if c.isascii() and c.isalnum()]) >= len(
        [c for c in unicodedata.normalize("NFC", text) if c.isascii() and c.isalnum()]
    )
