import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus.text import segment_text
from orpheus.text.tags import from_placeholders, to_placeholders
from orpheus.voices import TAGS, VOICES


def segmented(text: str, language: str = "en") -> tuple[str, int]:
    """The text of the segments, and how many tags were removed."""
    segmented = segment_text(text, language, 280)
    return " ".join(segment.text for segment in segmented.segments), segmented.removed_tags


@pytest.mark.parametrize("language", TAGS)
def test_each_language_keeps_its_own_tags(language: str) -> None:
    for tag in TAGS[language]:
        assert segmented(f"Hello <{tag}> there.", language) == (f"Hello <{tag}> there.", 0)


def test_every_language_of_a_voice_has_an_entry_of_tags() -> None:
    assert {voice.language for voice in VOICES.values()} <= set(TAGS)


def test_a_tag_is_lowercased_and_set_apart_from_words() -> None:
    assert segmented("I'm<LAUGH>happy <Sigh>, really.") == ("I'm <laugh> happy <sigh>, really.", 0)


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        ("Hello <happy> there.", "Hello there.", 1),
        ("Hello <resoplido>.", "Hello.", 1),
        ("<b>Bold</b>, <i>it</i>.", "Bold, it.", 4),
        ("Wait now, <speak>yes</speak>.", "Wait now, yes.", 2),
        ('<prosody rate="slow" pitch="low">Slow.</prosody>', "Slow.", 2),
        ("Hi </laugh> you.", "Hi you.", 1),
        ("Hi [laugh] you.", "Hi [laugh] you.", 0),
    ],
)
def test_unknown_tags_are_removed_and_counted(text: str, expected: str, removed: int) -> None:
    assert segmented(text) == (expected, removed)


@pytest.mark.parametrize(
    "text", ["a < b > c.", "x<y and z>w.", "is 1 <2> 3.", "I <3 you.", "x -> y <- z.", "if a <b or c> d."]
)
def test_comparisons_are_not_tags(text: str) -> None:
    assert segmented(text) == (text, 0)


def test_a_tag_of_another_language_is_unknown() -> None:
    assert segmented("Ciao <sigh> a tutti.", "it")[1] == 0
    assert segmented("Hola <sigh> a todos.", "es")[1] == 1
    assert segmented("नमस्ते <laugh> जी।", "hi") == ("नमस्ते जी।", 1)


def test_no_tag_is_split() -> None:
    text = "가나다라마바사아자차카타파하 <작은 웃음> " * 30
    texts = [segment.text for segment in segment_text(text, "ko", 60).segments]
    assert sum(text.count("<작은 웃음>") for text in texts) == 30
    assert sum(text.count("<") for text in texts) == 30


@given(
    st.lists(st.sampled_from(["<laugh>", "<b>", "<", ">", "a", " ", "<Sigh>", ".", "</", "laugh"])).map(
        "".join
    )
)
def test_no_known_tag_is_lost_and_no_other_gets_a_placeholder(text: str) -> None:
    with_placeholders, removed = to_placeholders(text, TAGS["en"])
    restored = from_placeholders(with_placeholders, TAGS["en"])
    assert restored.count("<laugh>") == text.count("<laugh>")
    assert restored.count("<sigh>") == text.count("<Sigh>")
    assert "<b>" not in restored
    assert removed >= text.count("<b>")
