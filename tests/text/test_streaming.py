from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest, TooLarge
from orpheus.text import StreamingSegmenter, segment_text

pytestmark = pytest.mark.anyio
PROSE = (
    "Well, hello there my friend, how are you doing today? I was thinking about the weather. It rains in Spain, "
    "mainly on the plain. Dr. Smith said 3.14 is pi! The quick brown fox jumps over the lazy dog and runs away."
)


def live(most_chars: int = 10_000, **options: int) -> StreamingSegmenter:
    return StreamingSegmenter("en", 280, most_chars=most_chars, **options)


async def spoken(
    text: StreamingSegmenter,
    fragments: Sequence[str | float],
    *,
    words: bool = False,
    in_hand_s: float | None = None,
) -> list[str]:
    """The segments, read as they come; a number among the fragments is a pause in seconds.

    The listener has as much in hand as it was said before, or always `in_hand_s`.
    """
    ends = [0.0]  # when the listener will have heard all

    async def write() -> None:
        for fragment in fragments:
            if isinstance(fragment, float):
                await asyncio.sleep(fragment)
            elif words:
                text.push_word(fragment)
            else:
                text.push(fragment)
        text.end()

    writing = asyncio.create_task(write())
    said = []
    while True:
        segment = await text.next(
            lambda: max(0.0, ends[0] - time.monotonic()) if in_hand_s is None else in_hand_s
        )
        if segment is None:
            await writing
            return said
        said.append(segment.text)
        ends[0] = max(ends[0], time.monotonic()) + len(segment.text) / 15


def said_words(said: Sequence[str]) -> list[str]:
    return [word.strip(".,!?") for word in " ".join(said).split()]


async def test_the_first_segment_is_the_first_clause() -> None:
    text = live()
    for word in ("Well,", "my", "dear", "friend,", "how"):
        text.push_word(word)
    segment = await asyncio.wait_for(text.next(lambda: 0.0), 0.2)
    assert segment is not None
    assert (segment.text, segment.pause_ms) == ("Well, my dear friend.", 120)
    assert not text.exhausted


async def test_a_complete_text_is_cut_as_segments_cuts_it() -> None:
    text = live()
    text.push(PROSE)
    text.end()
    assert await spoken(text, []) == [segment.text for segment in segment_text(PROSE, "en", 280).segments]
    assert text.exhausted


async def test_whole_sentences_while_there_is_audio_in_hand() -> None:
    said = await spoken(live(join_chars=50), [*(f"{word} " for word in PROSE.split()), 0.01], in_hand_s=9.0)
    assert said[0] == "Well, hello there my friend, how are you doing today?"
    said = await spoken(live(join_chars=50), [x for w in PROSE.split() for x in (w + " ", 0.01)])
    assert said == [
        "Well, hello there my friend.",
        "how are you doing today?",
        "I was thinking about the weather.",
        "It rains in Spain, mainly on the plain.",
        "Dr. Smith said 3.14 is pi!",
        "The quick brown fox jumps over the lazy dog and runs away.",
    ]


async def test_characters_tokens_and_words_say_the_same() -> None:
    by_letters = await spoken(live(), list(PROSE), in_hand_s=9.0)
    by_words = await spoken(live(), PROSE.split(), words=True, in_hand_s=9.0)
    assert said_words(by_letters) == said_words(by_words) == said_words([PROSE])


async def test_punctuation_sent_alone_is_put_back() -> None:
    sent = ["Hello", ",", "it", "'s", "(", "really", ")", "me", "!"]
    assert await spoken(live(), sent, words=True, in_hand_s=9.0) == ["Hello, it's (really) me!"]


async def test_a_pause_of_the_writer_is_not_a_pause_of_the_listener() -> None:
    started = time.monotonic()
    said = await spoken(live(), ["I have been ", "thinking ", 0.6, "about it."], in_hand_s=0.0)
    assert said == ["I have been thinking.", "about it."]
    assert time.monotonic() - started < 2


async def test_never_two_words_alone_however_long_the_pause() -> None:
    assert await spoken(live(), ["I have ", 0.6, "been thinking about it."], in_hand_s=0.0) == [
        "I have been thinking about it."
    ]
    assert (await spoken(live(), ["Yes. ", 0.6, "I do mean it."], in_hand_s=0.0))[0] == "Yes."


async def test_words_without_an_end_are_cut_after_some() -> None:
    text = live()
    for number in range(10):
        text.push_word(f"word{number}")
    segment = await asyncio.wait_for(text.next(lambda: 0.0), 0.2)
    assert segment is not None
    assert len(segment.text.split()) == 8
    assert segment.pause_ms == 0


async def test_a_word_that_is_not_complete_is_not_spoken() -> None:
    said = await spoken(live(), ["This is a long tele", 0.4, "phone call."], in_hand_s=0.0)
    assert said == ["This is a long.", "telephone call."]


async def test_lists_and_headings_end_where_their_lines_do() -> None:
    said = await spoken(
        live(), ["# What there is to buy\n\n- milk and butter\n- bread\n\nThat is all, I think."], in_hand_s=9
    )
    assert said[0] == "What there is to buy."
    assert any(segment.startswith("milk and butter.") for segment in said)


@pytest.mark.parametrize(
    "construct", ["**very, very bold**", "`a, b, c`", "[a, long, name](http://x.y/z)", "<giggle>"]
)
async def test_what_belongs_together_is_not_cut(construct: str) -> None:
    text = f"So I say this, {construct} and that is it."
    said = await spoken(live(), [x for c in text for x in (c, 0.001)], in_hand_s=0.0)
    whole = " ".join(segment.text for segment in segment_text(text, "en", 280).segments)
    assert said_words(said) == said_words([whole])


async def test_a_stray_mark_does_not_hold_the_listener_up() -> None:
    text = live()
    text.push("Two * three and a ** star [ and " + "many more words follow here, " * 8)
    assert await asyncio.wait_for(text.next(lambda: 0.0), 0.5) is not None


@pytest.mark.parametrize(
    "written", ["I really do love you <3 ", "Out of * and ** that's it.", "See you soon (at 5 [maybe "]
)
async def test_what_only_seemed_to_begin_is_spoken_once_its_writer_pauses(written: str) -> None:
    text = live()
    text.push(written)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(text.next(lambda: 0.0), 0.6)
    assert await asyncio.wait_for(text.next(lambda: 0.0), 2) is not None


async def test_languages_without_spaces() -> None:
    text = StreamingSegmenter("zh", 280, most_chars=1000)
    assert await spoken(
        text, ["今天天气很好", 0.01, "，我们去公园散步吧。", 0.01, "然后回家。"], in_hand_s=0.0
    ) == [
        "今天天气很好。",
        "我们去公园散步吧。然后回家。",
    ]


@pytest.mark.parametrize(
    ("fragments", "received"),
    [
        (["Hello 𝓣\ud83d", "\ude00 there."], "Hello 𝓣😀 there."),
        (["Hello \ud83d", "there."], "Hello \ufffdthere."),
        (["Hello ", "\ude00there.", "\ud83d"], "Hello \ufffdthere."),
    ],
)
async def test_halves_of_a_character_are_joined(fragments: list[str], received: str) -> None:
    text = live()
    await spoken(text, fragments)
    assert "".join(span.text for span in text.spans) == received


async def test_nothing_to_say_is_told_and_kept_for_the_words() -> None:
    with pytest.raises(BadRequest, match="nothing to say"):
        await spoken(live(), ["*** ", "😀"])
    text = live()
    await spoken(text, ["Hello there, you. ", 0.3, "😀"])
    assert text.unsaid == "😀"


async def test_a_text_has_an_end() -> None:
    text = live(most_chars=10)
    text.push("12345")
    with pytest.raises(TooLarge, match="10 characters"):
        text.push("123456")


async def test_pictures_by_the_thousand_hold_nobody_else_up() -> None:
    text, longest_s = live(most_chars=20_000), 0.0
    text.push("😀. " * 5333)
    reading = asyncio.create_task(text.next(lambda: 0.0))
    while text.unsaid != "😀. " * 5333:
        started = time.monotonic()
        await asyncio.sleep(0)  # what every other connection has to wait
        longest_s = max(longest_s, time.monotonic() - started)
    assert longest_s < 0.5
    text.push("Now there is something to say. And more.")
    segment = await asyncio.wait_for(reading, 5)
    assert segment is not None
    assert segment.text == "Now there is something to say."


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.sampled_from([0.0, 0.7, 9.0]))
def test_nothing_is_lost_or_repeated_however_it_arrives(cuts: list[int], in_hand_s: float) -> None:
    fragments, start = [], 0
    for size in cuts:
        fragments += [PROSE[start : start + size], 0.0]
        start += size
    fragments.append(PROSE[start:])
    text = live()
    said = asyncio.run(spoken(text, fragments, in_hand_s=in_hand_s))
    assert said_words(said) == said_words([PROSE])
    assert "".join(span.text for span in text.spans) == PROSE
    assert [span.first for span in text.spans] == [
        sum(len(other.chars) for other in text.spans[:n]) for n in range(len(text.spans))
    ]
