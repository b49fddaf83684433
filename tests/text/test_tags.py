import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus.text import segment_text
from orpheus.text.tags import TAGS, mark, unmark
from orpheus.voices import VOICES


def said(text: str, language: str = "en") -> tuple[str, int]:
    spoken = segment_text(text, language, 280)
    return " ".join(segment.text for segment in spoken.segments), spoken.removed_tags


@pytest.mark.parametrize("language", TAGS)
def test_each_language_keeps_its_own_tags_once(language: str) -> None:
    for tag in TAGS[language]:
        assert said(f"Hello <{tag}> there.", language) == (f"Hello <{tag}> there.", 0)


def test_every_voice_speaks_a_language_with_a_line_of_tags() -> None:
    assert {voice.language for voice in VOICES.values()} <= set(TAGS)


def test_a_tag_is_written_small_and_apart_from_words() -> None:
    assert said("I'm<LAUGH>happy <Sigh>, really.") == ("I'm <laugh> happy <sigh>, really.", 0)


@pytest.mark.parametrize(
    ("text", "left", "removed"),
    [
        ("Hello <happy> there.", "Hello there.", 1),
        ("Hello <resoplido>.", "Hello.", 1),
        ("<b>Bold</b>, <i>it</i>.", "Bold, it.", 4),
        ("Wait <break time='1s'/> now, <speak>yes</speak>.", "Wait now, yes.", 3),
        ('<prosody rate="slow" pitch="low">Slow.</prosody>', "Slow.", 2),
        ("Hi </laugh> you.", "Hi you.", 1),
        ("Hi [laugh] you.", "Hi [laugh] you.", 0),
    ],
)
def test_unknown_tags_are_removed_and_counted(text: str, left: str, removed: int) -> None:
    assert said(text) == (left, removed)


@pytest.mark.parametrize(
    "text", ["a < b > c.", "x<y and z>w.", "1 <2> 3.", "I <3 you.", "x -> y <- z.", "if a <b or c> d."]
)
def test_comparisons_are_no_tags(text: str) -> None:
    assert said(text) == (text, 0)


def test_a_tag_of_another_language_is_unknown() -> None:
    assert said("Ciao <sigh> a tutti.", "it")[1] == 0
    assert said("Hola <sigh> a todos.", "es")[1] == 1
    assert said("नमस्ते <laugh> जी।", "hi") == ("नमस्ते जी।", 1)


def test_no_cut_goes_through_a_tag() -> None:
    text = "가나다라마바사아자차카타파하 <작은 웃음> " * 30
    found = [segment.text for segment in segment_text(text, "ko", 60).segments]
    assert sum(text.count("<작은 웃음>") for text in found) == 30
    assert sum(text.count("<") for text in found) == 30


@given(
    st.lists(st.sampled_from(["<laugh>", "<b>", "<", ">", "a", " ", "<Sigh>", ".", "</", "laugh"])).map(
        "".join
    )
)
def test_no_known_tag_is_lost_and_only_known_ones_are_marked(text: str) -> None:
    marked, removed = mark(text, "en")
    written = unmark(marked)
    assert written.count("<laugh>") == text.count("<laugh>")
    assert written.count("<sigh>") == text.count("<Sigh>")
    assert "<b>" not in written
    assert removed >= text.count("<b>")
