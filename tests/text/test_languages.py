"""Languages beside the published eight: which letters a voice of one speaks."""

from __future__ import annotations

import unicodedata

import pytest

from orpheus.errors import BadRequest
from orpheus.languages import LANGUAGES, MISTAKEN
from orpheus.text import segment_text
from orpheus.text.scripts import leave_out
from tests.text.test_scripts import GREETINGS

SPOKEN = {
    "ar": "Arabic", "fa": "Arabic", "ur": "Arabic", "ru": "Cyrillic", "uk": "Cyrillic", "el": "Greek", "he": "Hebrew",
    "yi": "Hebrew", "th": "Thai", "mr": "Hindi", "ne": "Hindi", "ja": "Japanese", "hy": "Armenian", "ka": "Georgian",
    "bn": "Bengali", "as": "Bengali", "ta": "Tamil", "am": "Ethiopic", "ti": "Ethiopic", "tr": None, "pl": None,
    "vi": None, "sw": None, "id": None,
}  # fmt: skip


@pytest.mark.parametrize("language", SPOKEN)
@pytest.mark.parametrize("script", GREETINGS)
def test_a_word_is_left_out_unless_the_language_has_its_letters(language: str, script: str) -> None:
    text = f"Ola {GREETINGS[script]} Ana."
    left, count = leave_out(text, language)
    if script == SPOKEN[language] or (language == "ja" and script == "Chinese"):
        assert (left, count) == (text, 0)
    else:
        assert left == "Ola Ana."
        assert count > 0


@pytest.mark.parametrize("script", GREETINGS)
def test_a_language_with_a_code_of_three_letters_may_have_any_letters(script: str) -> None:
    assert leave_out(GREETINGS[script], "ckb") == (GREETINGS[script], 0)


def test_a_text_in_other_letters_alone_is_refused_with_their_name() -> None:
    with pytest.raises(BadRequest, match=r"in Arabic letters, which the Turkish voice cannot speak"):
        segment_text("مرحبًا", "tr", 280)
    with pytest.raises(
        BadRequest, match=r"input is in Korean, which the Arabic voice cannot speak: set ORPHEUS_MODEL"
    ):
        segment_text("안녕하세요", "ar", 280)


def test_every_script_of_a_language_is_one_of_unicode() -> None:
    names = {unicodedata.name(chr(code), "").split(" ")[0] for code in range(0x2FFFF)}
    scripts = {script for language in LANGUAGES.values() for script in language.scripts}
    assert scripts <= names
    assert len(LANGUAGES) == 183
    assert set(MISTAKEN.values()) <= LANGUAGES.keys()
    assert not MISTAKEN.keys() & LANGUAGES.keys()
