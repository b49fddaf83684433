from __future__ import annotations

from itertools import pairwise

import pytest

from orpheus.text import StreamingSegmenter
from orpheus.tts.usage import Usage
from orpheus.tts.word_timing import CHARS_PER_S, WordTimer

pytestmark = pytest.mark.anyio
RATE = 24_000


async def begun(*texts: str) -> tuple[StreamingSegmenter, Usage, WordTimer]:
    """A text each part of which was cut as a segment of its own; none is heard yet."""
    live, usage = StreamingSegmenter("en", 280, max_chars=1000), Usage()
    for text in texts:
        live.push(text)
        if text is texts[-1]:
            live.end()
        while (segment := await live.next(lambda: 0.0)) is not None:
            usage.segments.append(segment)
            if text is not texts[-1]:
                break
    return live, usage, WordTimer(live, usage, RATE)


async def test_words_come_with_their_audio_by_their_position_in_the_segment() -> None:
    _, usage, words = await begun("one two three four.")
    segment = usage.segments[0]
    assert list(words.due(10**9)) == []  # nothing is heard yet
    segment.start, segment.samples, segment.complete = 0, 38_000, True
    first = list(words.due(1))
    assert [word.text for word in first] == ["one"]
    rest = list(words.due(38_000))
    assert [word.text for word in rest] == ["two", "three", "four."]
    assert [round(word.start_s * RATE) for word in rest] == [8_000, 16_000, 28_000]
    assert rest[-1].stop_s == pytest.approx(38_000 / RATE)


async def test_an_estimate_is_corrected_without_going_back() -> None:
    _, usage, words = await begun("one two three four five six.")
    segment = usage.segments[0]
    segment.start, segment.samples = 0, 2048
    half = list(words.due(20_000))
    assert half[1].start_s == pytest.approx(4 / CHARS_PER_S, rel=0.05)
    segment.samples, segment.complete = 30_000, True  # it was shorter than it was thought to be
    rest = list(words.due(30_000))
    starts = [word.start_s for word in half + rest]
    assert all(before < after for before, after in pairwise(starts))
    assert starts[-1] < 30_000 / RATE
    assert [word.text for word in half + rest] == ["one", "two", "three", "four", "five", "six."]


@pytest.mark.parametrize("speed", [0.25, 0.3, 2.0, 4.0])
async def test_a_voice_that_is_slowed_down_or_hurried_says_the_same_words_in_the_same_samples(
    speed: float,
) -> None:
    live, usage, as_spoken = await begun("one two three four five six.")
    as_played = WordTimer(live, usage, RATE, speed=speed)
    segment = usage.segments[0]
    segment.start, segment.samples = 0, 2048  # its length is a guess
    for sent in (1, 10_000, 20_000):
        spoken, played = list(as_spoken.due(sent)), list(as_played.due(sent))
        assert [word.text for word in played] == [word.text for word in spoken]
        assert [word.start_s * speed for word in played] == pytest.approx(
            [word.start_s for word in spoken], abs=0.01
        )


async def test_the_words_of_a_finished_segment_are_not_held_back() -> None:
    _, usage, words = await begun("One two three, ", "four five six.")
    first, second = usage.segments
    first.start, first.samples = 0, 2048
    assert [word.text for word in words.due(1)] == ["One"]
    first.complete, second.start = True, 2048
    assert [word.text for word in words.due(2049)] == ["two", "three,", "four"]


async def test_the_pause_after_a_segment_belongs_to_no_word() -> None:
    _, usage, words = await begun("one two.")
    segment = usage.segments[0]
    segment.start, segment.samples, segment.complete, segment.pause_samples = 0, 48_000, True, 24_000
    assert list(words.due(48_000))[-1].stop_s == pytest.approx(1.0)


async def test_unspeakable_text_is_echoed_at_the_end() -> None:
    live, usage, words = await begun("One two three, ", "😀")
    usage.samples = 24_000
    usage.segments[0].start, usage.segments[0].samples, usage.segments[0].complete = 0, 24_000, True
    assert live.unsaid == "😀"
    told = list(words.rest())
    assert [word.text for word in told] == ["One", "two", "three,", "😀"]
    assert told[-1].start_s == pytest.approx(1.0)


async def test_a_paragraph_that_is_left_out_takes_no_time_from_the_words_after_it() -> None:
    _, usage, words = await begun("你好，世界。" * 20 + "\n\nOne two.")
    segment = usage.segments[0]
    segment.start, segment.samples, segment.complete, usage.samples = 0, 48_000, True, 48_000
    unsaid, one, two = words.rest()
    assert unsaid.start_s == 0
    assert one.start_s == pytest.approx(0, abs=0.4)
    assert two.start_s == pytest.approx(2 * 4 / 8, abs=0.4)


async def test_several_segments_of_one_text_share_its_words_by_their_length() -> None:
    live = StreamingSegmenter("en", 60, max_chars=1000)
    text = "This is a sentence of some words, all in all. And here is another one like it, more or less."
    live.push(text)
    live.end()
    usage = Usage()
    while (segment := await live.next(lambda: 0.0)) is not None:
        segment.start = 60_000 * len(usage.segments)
        segment.samples, segment.complete = 60_000, True
        usage.segments.append(segment)
    assert len(usage.segments) == 2
    usage.samples = 120_000
    told = list(WordTimer(live, usage, RATE).rest())
    assert [word.text for word in told] == text.split()
    second = next(word for word in told if word.text == "And")
    assert second.start_s == pytest.approx(60_000 / RATE, abs=0.3)
