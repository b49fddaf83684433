from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.errors import BadRequest, TooLarge
from orpheus.text import Segment, StreamingSegmenter, segment_text
from orpheus.text.streaming import SEARCH_SEGMENTS
from tests.support.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.anyio
SEGMENT_CHARS = 280
CHARS_PER_S = 15  # how fast the listener hears a segment
PROSE = (
    "Well, hello there my friend, how are you doing today? I was thinking about the weather. It rains in Spain, "
    "mainly on the plain. Dr. Smith said 3.14 is pi! The quick brown fox jumps over the lazy dog and runs away."
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


def now_s() -> float:
    return asyncio.get_running_loop().time()


def streaming(max_chars: int = 10_000, **options: int) -> StreamingSegmenter:
    return StreamingSegmenter("en", SEGMENT_CHARS, max_chars=max_chars, **options)


async def next_text(text: StreamingSegmenter, within_s: float) -> str:
    """The text of the next segment, for a listener who has heard everything so far."""
    segment = await asyncio.wait_for(text.next(lambda: 0.0), within_s)
    assert segment is not None
    return segment.text


async def segments(
    text: StreamingSegmenter,
    fragments: Sequence[str | float],
    *,
    words: bool = False,
    buffered_s: float | None = None,
) -> list[str]:
    """The texts of the segments."""
    return [segment.text for segment in await read(text, fragments, words=words, buffered_s=buffered_s)]


async def read(
    text: StreamingSegmenter,
    fragments: Sequence[str | float],
    *,
    words: bool = False,
    buffered_s: float | None = None,
) -> list[Segment]:
    """The segments, read as soon as they are there. A number among the fragments is a pause in seconds.

    The listener has `buffered_s` of audio left, by default what the segments so far take to hear.
    """
    heard_s = 0.0  # when the listener will have heard everything

    async def write() -> None:
        for fragment in fragments:
            if isinstance(fragment, float):
                await asyncio.sleep(fragment)
            elif words:
                text.push_word(fragment)
            else:
                text.push(fragment)
        text.end()

    def remaining_s() -> float:
        return max(0.0, heard_s - now_s()) if buffered_s is None else buffered_s

    writing = asyncio.create_task(write())
    found: list[Segment] = []
    while segment := await text.next(remaining_s):
        found.append(segment)
        heard_s = max(heard_s, now_s()) + len(segment.text) / CHARS_PER_S
    await writing
    return found


def bare_words(texts: Sequence[str]) -> list[str]:
    return [word.strip(".,!?") for word in " ".join(texts).split()]


async def test_the_first_segment_is_the_first_clause() -> None:
    text = streaming()
    for word in ("Well,", "my", "dear", "friend,", "how"):
        text.push_word(word)
    segment = await asyncio.wait_for(text.next(lambda: 0.0), 0.2)
    assert segment is not None
    assert (segment.text, segment.pause_ms) == ("Well, my dear friend.", 120)
    assert not text.exhausted


async def test_a_complete_text_is_split_as_segment_text_splits_it() -> None:
    text = streaming()
    text.push(PROSE)
    text.end()
    whole = segment_text(PROSE, "en", SEGMENT_CHARS)
    assert await segments(text, []) == [segment.text for segment in whole.segments]
    assert text.exhausted


async def test_only_whole_sentences_are_taken_while_there_is_audio_left() -> None:
    fragments = [fragment for word in PROSE.split() for fragment in (word + " ", 0.01)]
    assert await segments(streaming(join_chars=50), fragments) == [
        "Well, hello there my friend.",
        "how are you doing today?",
        "I was thinking about the weather.",
        "It rains in Spain, mainly on the plain.",
        "Dr. Smith said 3.14 is pi!",
        "The quick brown fox jumps over the lazy dog and runs away.",
    ]


async def test_characters_and_words_give_the_same_text() -> None:
    by_characters = await segments(streaming(), list(PROSE), buffered_s=9.0)
    by_words = await segments(streaming(), PROSE.split(), words=True, buffered_s=9.0)
    assert bare_words(by_characters) == bare_words(by_words) == bare_words([PROSE])


async def test_punctuation_sent_by_itself_is_attached_to_its_word() -> None:
    sent = ["Hello", ",", "it", "'s", "(", "really", ")", "me", "!"]
    assert await segments(streaming(), sent, words=True, buffered_s=9.0) == ["Hello, it's (really) me!"]


async def test_when_the_writer_pauses_the_words_so_far_are_spoken() -> None:
    text = streaming()
    text.push("I have been thinking ")
    assert await next_text(text, within_s=0.3) == "I have been thinking."
    text.push("about it.")
    text.end()
    assert await next_text(text, within_s=0.01) == "about it."


async def test_two_words_are_never_a_segment_however_long_the_pause() -> None:
    assert await segments(streaming(), ["I have ", 0.6, "been thinking about it."], buffered_s=0.0) == [
        "I have been thinking about it."
    ]
    found = await segments(streaming(), ["Yes. ", 0.6, "I do mean it."], buffered_s=0.0)
    assert found[0] == "Yes.", "but a whole sentence is"


async def test_words_without_a_clause_end_are_split_after_eight() -> None:
    text = streaming()
    for number in range(10):
        text.push_word(f"word{number}")
    segment = await asyncio.wait_for(text.next(lambda: 0.0), 0.2)
    assert segment is not None
    assert len(segment.text.split()) == 8
    assert segment.pause_ms == 0


async def test_an_incomplete_word_is_not_spoken() -> None:
    found = await segments(streaming(), ["This is a long tele", 0.4, "phone call."], buffered_s=0.0)
    assert found == ["This is a long.", "telephone call."]


ABBREVIATED = (
    "Please welcome our new teacher, Ms. Johnson, to the school. Our flight leaves at seven a.m. Monday from gate "
    "nine. Then Dr. and Mrs. J. R. Smith of St. Louis, e.g. with Prof. Lee of Acme Inc. Chicago, take bus No. 5 on "
    "Jan. 3 to the U.S. Embassy near p. 12 of it. It costs 3.50 today."
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.0, 0.3, 0.9])), min_size=1, max_size=90),
    st.sampled_from([0.0, 0.7, 9.0]),
)
def test_no_abbreviation_makes_the_pause_of_a_stop_however_the_text_arrives(
    writing: list[tuple[int, float]], buffered_s: float
) -> None:
    fragments: list[str | float] = []
    start = 0
    for size, pause_s in writing:
        fragments += [ABBREVIATED[start : start + size], pause_s]
        start += size
    fragments.append(ABBREVIATED[start:])
    text = streaming()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(read(text, fragments, buffered_s=buffered_s))
    assert bare_words([segment.text for segment in found]) == bare_words([ABBREVIATED])
    ends = [ABBREVIATED.index(word) + len(word) for word in ("school.", "nine.", "it.", "today.")]
    written = ""
    for number, span in enumerate(text.spans[:-1]):
        written += span.text
        last = found[text.spans[number + 1].first - 1]
        if len(written.rstrip()) not in ends:
            assert last.pause_ms < 250, written
            assert not written.rstrip().endswith(TITLES), written


TITLES = ("Ms.", "Dr.", "Mrs.", "Prof.", "St.", " J.", " R.")


@pytest.mark.parametrize("title", ["Ms.", "Dr.", "Mr. and Mrs.", "Prof."])
async def test_a_title_is_kept_for_its_name_however_long_the_writer_pauses(title: str) -> None:
    found = await segments(
        streaming(), [f"This is our new teacher {title} ", 5.0, "Johnson."], buffered_s=0.0
    )
    assert found[-1].endswith(f"{title.split()[-1]} Johnson.")


async def test_words_that_may_end_a_sentence_are_spoken_after_a_second() -> None:
    text = streaming()
    text.push("We will all meet again at 7 a.m.")
    with pytest.raises(TimeoutError):
        await next_text(text, within_s=0.99)
    assert await next_text(text, within_s=0.02) == "We will all meet again at 7 a.m."


async def test_numbers_are_spoken_after_a_second_though_more_may_follow() -> None:
    text = streaming()
    text.push("The code for the door is 4 5 6 ")
    assert await next_text(text, within_s=0.3) == "The code for the door."
    text = streaming()
    text.push("4 5 6 ")
    with pytest.raises(TimeoutError):
        await next_text(text, within_s=0.99)
    assert await next_text(text, within_s=0.02) == "four five six."


async def test_a_decimal_is_not_cut_when_the_writer_pauses_within_it() -> None:
    found = await segments(streaming(), ["The price of it is 3.", 0.6, "50 today."], buffered_s=0.0)
    assert found == ["The price of it is 3.50 today."]


@pytest.mark.parametrize("written", ["7", "7.", "42", "3!"])
async def test_a_number_alone_is_read_in_words(written: str) -> None:
    found = await segments(streaming(), list(written))
    assert found == [segment.text for segment in segment_text(written, "en", SEGMENT_CHARS).segments]
    assert not any(character.isdigit() for character in found[0])


async def test_korean_words_are_not_cut_inside() -> None:
    text = StreamingSegmenter("ko", SEGMENT_CHARS, max_chars=1000)
    written = "우리는 어제 학교에서 선생님을 만났습니다 그리고 집으로 돌아왔습니다."
    found = await segments(text, [x for c in written for x in (c, 0.001)], buffered_s=0.0)
    assert " ".join(part.rstrip(".。") for part in found) == written.rstrip(".")


async def test_lists_and_headings_end_where_their_lines_do() -> None:
    markdown = "# What there is to buy\n\n- milk and butter\n- bread\n\nThat is all, I think."
    found = await segments(streaming(), [markdown], buffered_s=9.0)
    assert found[0] == "What there is to buy."
    assert any(segment.startswith("milk and butter.") for segment in found)


@pytest.mark.parametrize(
    "construct", ["**very, very bold**", "`a, b, c`", "[a, long, name](http://x.y/z)", "<giggle>"]
)
async def test_markup_is_not_split(construct: str) -> None:
    text = f"So I say this, {construct} and that is it."
    found = await segments(streaming(), [x for c in text for x in (c, 0.001)], buffered_s=0.0)
    whole = " ".join(segment.text for segment in segment_text(text, "en", SEGMENT_CHARS).segments)
    assert bare_words(found) == bare_words([whole])


async def test_markup_that_is_never_closed_does_not_hold_the_text_back() -> None:
    text = streaming()
    text.push("Two * three and a ** star [ and " + "many more words follow here, " * 8)
    await next_text(text, within_s=0.01)


@pytest.mark.parametrize(
    "written", ["I really do love you <3 ", "Out of * and ** that's it.", "See you soon (at 5 [maybe "]
)
async def test_what_looks_like_open_markup_is_spoken_after_a_pause_of_a_second(written: str) -> None:
    text = streaming()
    text.push(written)
    with pytest.raises(TimeoutError):
        await next_text(text, within_s=0.99)
    await next_text(text, within_s=0.02)


async def test_languages_without_spaces() -> None:
    text = StreamingSegmenter("zh", SEGMENT_CHARS, max_chars=1000)
    fragments = ["今天天气很好", 0.01, "，我们去公园散步吧。", 0.01, "然后回家。"]
    assert await segments(text, fragments, buffered_s=0.0) == [
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
async def test_surrogates_in_two_fragments_are_joined(fragments: list[str], received: str) -> None:
    text = streaming()
    await segments(text, fragments)
    assert "".join(span.text for span in text.spans) == received


async def test_a_text_with_nothing_to_say_is_said_in_no_time() -> None:
    assert await segments(streaming(), ["*** ", "😀"]) == []
    text = streaming()
    await segments(text, ["Hello there, you. ", 0.3, "😀"])
    assert text.unsaid == "😀"


async def test_a_text_in_letters_that_the_model_cannot_speak_is_an_error_unless_words_came_before() -> None:
    with pytest.raises(BadRequest, match="Chinese") as caught:
        await segments(streaming(), ["你好，", 0.3, "世界。"])
    assert caught.value.code == "unspeakable_language"
    text = streaming()
    assert await segments(text, ["Hello there, you. ", 0.3, "你好。"]) == ["Hello there, you."]
    assert (text.left_out_chars, text.unsaid) == (2, "你好。")


@pytest.mark.parametrize("cut", range(1, len("Don&#8217;t &amp;#39;x&eacute; AT&T")))
async def test_an_entity_may_arrive_in_two_fragments(cut: int) -> None:
    sent = "Don&#8217;t &amp;#39;x&eacute; AT&T"
    text = streaming()
    assert await segments(text, [sent[:cut], 0.4, sent[cut:]]) == ["Don't 'xé AT&T."]
    assert "".join(span.text for span in text.spans) == "Don’t 'xé AT&T"


async def test_halves_of_an_emoji_may_arrive_as_entities() -> None:
    text = streaming()
    assert await segments(text, ["Well done, &#5535", "7;", "&#56832", "; you."]) == ["Well done, you."]
    assert "".join(span.text for span in text.spans) == "Well done, 😀 you."


async def test_a_text_that_is_too_long_is_an_error() -> None:
    text = streaming(max_chars=10)
    text.push("12345")
    with pytest.raises(TooLarge, match="10 characters"):
        text.push("123456")


async def test_thousands_of_emoji_do_not_block_the_event_loop() -> None:
    emoji = "😀. " * 5333
    text = streaming(max_chars=20_000)
    text.push(emoji)
    reading = asyncio.create_task(text.next(lambda: 0.0))
    skipped = [0]
    while len(skipped) < 2 or skipped[-1] > skipped[-2]:
        await asyncio.sleep(0)  # when every other connection has its turn
        skipped.append(len(text.unsaid))
    assert skipped[-1] > 0.9 * len(emoji)
    assert max(after - before for before, after in pairwise(skipped)) <= SEARCH_SEGMENTS * SEGMENT_CHARS
    await asyncio.sleep(0.5)  # the last one might have gone on
    assert text.unsaid == emoji
    text.push("Now there is something to say. And more.")
    segment = await asyncio.wait_for(reading, 5)
    assert segment is not None
    assert segment.text == "Now there is something to say."


@pytest.mark.parametrize("unit", ["Dr. ", "a. ", ".", "7. ", "z. B. ", "e.g., ", "(", "12 "])
async def test_writing_takes_time_in_proportion_to_the_text(unit: str) -> None:
    """In CPU time, which does not count other processes: a few seconds, or minutes where it is quadratic."""
    text = streaming(max_chars=20_000)
    reading = asyncio.create_task(segments_of(text))
    start_s = time.process_time()
    for character in (unit * 8_000)[:8_000]:
        text.push(character)
        await asyncio.sleep(0)
    text.end()
    await reading
    assert time.process_time() - start_s < 20


async def segments_of(text: StreamingSegmenter) -> None:
    with contextlib.suppress(BadRequest):
        while await text.next(lambda: 9.0):
            pass


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.sampled_from([0.0, 0.7, 9.0]))
def test_nothing_is_lost_or_repeated_however_the_text_arrives(sizes: list[int], buffered_s: float) -> None:
    fragments: list[str | float] = []
    start = 0
    for size in sizes:
        fragments += [PROSE[start : start + size], 0.0]
        start += size
    fragments.append(PROSE[start:])
    text = streaming()
    found = asyncio.run(segments(text, fragments, buffered_s=buffered_s))
    assert bare_words(found) == bare_words([PROSE])
    assert "".join(span.text for span in text.spans) == PROSE
    assert [span.first for span in text.spans] == [
        sum(len(other.chars) for other in text.spans[:n]) for n in range(len(text.spans))
    ]
