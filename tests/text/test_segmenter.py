import contextlib
import re
import time
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest
from orpheus.text import numbers, segment_text
from orpheus.text.segmenter import pause_ms


def segments(text: str, language: str = "en", max_chars: int = 110) -> list[str]:
    return [segment.text for segment in segment_text(text, language, max_chars).segments]


def pauses(text: str, language: str = "en", max_chars: int = 110) -> list[int]:
    return [segment.pause_ms for segment in segment_text(text, language, max_chars).segments]


def alphanumerics(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


def test_a_short_text_is_one_segment_with_its_own_punctuation() -> None:
    assert segments("Hi.") == ["Hi."]


def test_a_full_stop_is_added_where_there_is_none() -> None:
    assert segments("Hello there") == ["Hello there."]
    assert segments("你好", "zh") == ["你好。"]
    assert segments("नमस्ते", "hi") == ["नमस्ते।"]


def test_sentences_are_kept_whole_and_the_first_stands_alone() -> None:
    text = "This is the first sentence. Here is the second. And a third one."
    assert segments(text, max_chars=60) == [
        "This is the first sentence.",
        "Here is the second. And a third one.",
    ]


def test_a_tiny_first_sentence_is_joined_with_the_next() -> None:
    assert segments("Hi. How are you today?") == ["Hi. How are you today?"]


def test_a_tiny_last_sentence_is_joined_with_the_one_before() -> None:
    assert segments("This is the first sentence. Yes.") == ["This is the first sentence. Yes."]
    *_, last = segments(
        "A first sentence stands here. " + "There are quite a few words in it, too. " * 2 + "No."
    )
    assert len(last) > 20


def test_the_first_clause_of_a_long_first_sentence_is_a_segment() -> None:
    text = (
        "When the rain had finally stopped over the valley, the children ran out, shouting, all the way to the "
        "river, and nobody could hold them back."
    )
    assert segments(text, max_chars=280)[0] == "When the rain had finally stopped over the valley."
    assert pauses(text, max_chars=280)[0] == 120


def test_a_clause_of_a_few_words_stays_with_its_sentence() -> None:
    text = "Well, my dear, " + "it is a very long way to go from here to the sea " * 2 + "and back."
    assert segments(text, max_chars=280) == [text]


def test_a_long_sentence_is_split_at_a_clause() -> None:
    text = "When the rain had finally stopped over the valley, the children ran out, shouting, to the river."
    first, *_ = segments(text, max_chars=60)
    assert first == "When the rain had finally stopped over the valley."


def test_a_word_longer_than_a_segment_is_split() -> None:
    assert "".join(segment.rstrip(".") for segment in segments("a" * 500)) == "a" * 500


def test_a_wide_character_counts_as_three_letters() -> None:
    assert all(len(segment.rstrip("。")) <= 110 / 3 for segment in segments("我们今天去公园玩" * 40, "zh"))
    assert "".join(segments("我们今天去公园玩" * 40, "zh")).replace("。", "") == "我们今天去公园玩" * 40


def test_the_last_punctuation_mark_sets_the_pause_and_the_last_segment_has_none() -> None:
    text = "Is this the first question? Here comes a statement of some length. And the end of it all."
    assert pauses(text, max_chars=50) == [300, 250, 0]
    assert pauses("The first paragraph is here.\n\nAnd this is the second one.") == [500, 0]


def test_paragraphs_are_separate_segments_unless_they_are_tiny() -> None:
    text = "An opening of some words.\n\nA middle of some words.\n\nYes.\n\nAn ending of some words."
    assert segments(text) == [
        "An opening of some words.",
        "A middle of some words.",
        "Yes. An ending of some words.",
    ]


def test_a_heading_without_a_full_stop_gets_one() -> None:
    assert segments("# Plans\n\nWe leave in the morning.") == ["Plans. We leave in the morning."]


def test_repeated_punctuation_that_breaks_the_model_is_collapsed() -> None:
    assert segments("It's on!!! Really?!?! Yes........ no") == ["It's on! Really? Yes... no."]


def test_a_tag_alone_is_something_to_say() -> None:
    assert segments("<laugh>") == ["<laugh>"]


@pytest.mark.parametrize(
    "hostile",
    [
        "a<custom_token_2>b",
        "a<|eot_id|>b",
        "a<custom_<custom_token_1>token_2>b",
        "a<|<|audio|>eot_id|>b",
        "a<custom_**token**_2>b",
        "a&lt;custom_token_2&gt;b",
        "a<\u200b|eot_id|>b",
        "a<custom_\u200btoken_2>b",
        "a&lt;|eot_id|&gt;b",
        "a<cus<b>tom_token_2>b",
        "a<|eot\n_id|>b",
        "a<custom_token_𝟐>b",
    ],
)
def test_control_strings_never_survive(hostile: str) -> None:
    (segment,) = segments(hostile)
    assert "custom_token_2>" not in segment
    assert "<|" not in segment


@pytest.mark.parametrize(
    "empty",
    ["", "   ", "\n\t", "...", "?!", "🙂", "\x00", "<custom_token_12>", "---", "# ", "\ud800", "<b></b>"],
)
def test_nothing_to_say_is_a_bad_request(empty: str) -> None:
    with pytest.raises(BadRequest, match="nothing to say") as caught:
        segment_text(empty, "en", 110)
    assert caught.value.param == "input"


ORDINARY = st.lists(
    st.text(st.sampled_from("abcdefgXYZéßñ0123456789,;:'\"-()!?"), min_size=1, max_size=12)
    | st.sampled_from(
        ["word", "Dr.", "end.", "2 * 3", "a < b", "snake_case", "1.", "3.50", "Łódź", "Nguyễn", "\n\n", "\n"]
    ),
    max_size=120,
).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(ORDINARY, st.sampled_from(["en", "fr", "zh"]), st.sampled_from([20, 40, 110, 280]))
def test_no_letter_or_digit_of_ordinary_text_is_lost_or_moved(
    text: str, language: str, max_chars: int
) -> None:
    if not alphanumerics(text):
        return
    with patch.object(numbers, "verbalize", lambda text, language: text):  # of a number that stands alone
        texts = segments(text, language, max_chars)
    assert alphanumerics("".join(texts)) == alphanumerics(text)
    assert all(0 < len(segment) <= max_chars for segment in texts)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=400)
    | st.text(st.sampled_from("<>|_*`[]()#&;\\ \n\u200d\u0301\ue000ab1.,!?laugh/@:"), max_size=200),
    st.sampled_from(["en", "ko", "hi", "xx"]),
    st.booleans(),
)
def test_any_text_gives_segments_that_fit_or_a_bad_request(text: str, language: str, normalize: bool) -> None:
    try:
        segmented = segment_text(text, language, 110, normalize=normalize)
    except BadRequest:
        return
    texts = [segment.text for segment in segmented.segments]
    again = segment_text(text, language, 110, normalize=normalize)
    assert [segment.text for segment in again.segments] == texts
    assert segmented.segments[-1].pause_ms == 0
    for segment in segmented.segments:
        assert 0 < len(segment.text) <= 110
        assert segment.text.isprintable() or "\u200d" in segment.text or "\u200c" in segment.text
        assert not re.search(r"<\|[^<>]*\|>", segment.text)


@pytest.mark.parametrize("language", ["en", "hi"])
def test_segmenting_the_segments_again_changes_nothing(language: str) -> None:
    text = "## Title\n\nSome **bold** words, <laugh> and a link: https://example.com/a. It's 5 * 3 -- or so…"
    once = segments(text, language, 280)
    assert segments(" ".join(once), language, 280) in ([" ".join(once)], once)


@pytest.mark.parametrize(
    "text", ["at 9:30 a.m., slightly late", '"Wait!", she said', "Yes.; no", "Why?, I ask"]
)
@pytest.mark.parametrize("max_chars", [20, 40])
def test_no_segment_has_two_stops(text: str, max_chars: int) -> None:
    around = "words that go on and on without a stop "
    for segment in segments(f"{around}{text} {around * 3}", max_chars=max_chars + len(text)):
        assert not re.search(r"[.!?][\"')]*[.!?]", segment), segment


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("We left at 9:30 a.m.,", "We left at 9:30 a.m."),
        ('"Wait!",', '"Wait!"'),
        ("(Really?) -", "(Really?)"),
        ("Well...,", "Well..."),
        ('He said "so",', 'He said "so".'),
    ],
)
def test_a_text_that_ends_in_a_stop_and_a_comma_gets_no_other_stop(text: str, read: str) -> None:
    assert segments(text) == [read]


@pytest.mark.parametrize(
    ("text", "pause"),
    [
        ("We all came to town with Ms.", 0),
        ("We all came to town at 7 a.m.", 0),
        ("We all came to town at 7 a.m.,", 120),
        ("We all came (approx.)", 120),
        ("We all came to town.", 250),
        ('We all "came to town."', 250),
        ("We all came to town…", 250),
    ],
)
def test_only_the_end_of_a_sentence_makes_the_pause_of_a_stop(text: str, pause: int) -> None:
    assert pause_ms(text, " Monday then", "en") == pause


def test_the_pause_after_an_abbreviation_depends_on_whether_it_ends_the_sentence() -> None:
    assert pause_ms("We all came to town at 7 a.m.", " Then we left", "en") == 250
    assert pauses("We all came to town at 7 a.m. Then we all left the town again.") == [250, 0]
    assert pauses("We all came to town at 7 a.m. Monday and left the town again.") == [0]


@pytest.mark.parametrize("max_chars", range(90, 200, 7))
def test_a_number_in_words_is_never_cut_inside(max_chars: int) -> None:
    around = "we went on and on with it as long as there was any of it left to see "
    text = f"{around}and the price of it is $3,497 and that was {around}or 1,234,567 people and {around}"
    texts = [segment.text for segment in segment_text(text, "en", max_chars, normalize=True).segments]
    assert any(numbers.verbalize("$3,497", "en") in text for text in texts)
    assert any(numbers.verbalize("1,234,567", "en") in text for text in texts)
    assert all(len(text) <= max_chars for text in texts)


def test_numbers_in_words_fit_a_segment_however_many_there_are() -> None:
    text = "999,999 " * 40
    segmented = segment_text(text, "en", 110, normalize=True)
    assert all(len(segment.text) <= 110 for segment in segmented.segments)
    spoken = " ".join(segment.text.rstrip(".") for segment in segmented.segments)
    assert spoken.count(numbers.verbalize("999,999", "en")) == 40


@pytest.mark.parametrize(
    ("language", "text", "read"),
    [
        ("en", "7", "seven."),
        ("en", "7.", "seven."),
        ("en", "3!", "three!"),
        ("en", "42", "forty-two."),
        ("en", "$5", "five dollars."),
        ("en", "5%", "five percent."),
        ("en", "A", "A."),
        ("en", "Room 7", "Room 7."),
        ("fr", "12", "douze."),
        ("de", "12.", "zwölf."),
        ("es", "¿12?", "¿doce?"),
        ("it", "12", "dodici."),
        ("ko", "12", "십이."),
        ("zh", "12", "12."),
    ],
)
def test_a_number_that_stands_alone_is_read_in_words(language: str, text: str, read: str) -> None:
    assert segments(text, language) == [read]


def test_a_number_too_long_in_words_for_a_segment_keeps_its_digits() -> None:
    assert "".join(segments("1" * 60, max_chars=110)) == "1" * 60 + "."


JUNK = {
    "letters": "a",
    "stops": "a. ",
    "brackets": "[",
    "images": "![",
    "links": "[a](b.c",
    "angles": "<",
    "tags": "<b>",
    "nested tags": "<a <",
    "attributes": "<a b=c ",
    "control": "<|",
    "stars": "*a ",
    "underscores": "_",
    "ticks": "`",
    "hashes": "# ",
    "rules": "- ",
    "tables": "|",
    "rows": "|a|\n",
    "items": "- a\n",
    "lines": "\n",
    "short lines": "a\n",
    "spaces": " ",
    "dots": ".",
    "hosts": "a.",
    "urls": "http://a.com/",
    "mails": "a@a.",
    "ats": "@",
    "marks": "\u0301\u0316",
    "joiners": "\u200d",
    "letters and joiners": "क\u200d",
    "heaps of joiners": "क" + "\u200d" * 20_000,
    "heaps of commas": "a" + "，" * 20_000,
    "emoji": "👩‍👧 ",
    "quotes": '"',
    "corners": "「",
    "wide": "我们",
    "wide stops": "我。",
    "right to left": "שלום \u202e",
    "surrogates": "\ud800",
    "zeros": "\x00",
    "digits": "1",
    "numbers": "12345 ",
    "phones": "1-",
    "prices": "$1.",
    "entities": "&amp;",
    "escapes": "\\",
    "bangs": "!?",
    "dashes": "-a",
    "hash tail": "# #",
    "initials": "M. ",
    "private": "\ue000",
}


@pytest.mark.parametrize("unit", JUNK.values(), ids=JUNK.keys())
def test_no_junk_takes_quadratic_time(unit: str) -> None:
    """In CPU time, which does not count other processes: well under a second, or minutes where it is quadratic."""
    text = unit * (100_000 // len(unit))
    start_s = time.process_time()
    for language in ("en", "fr"):
        with contextlib.suppress(BadRequest):
            segment_text(text, language, 110, normalize=True)
    assert time.process_time() - start_s < 10
