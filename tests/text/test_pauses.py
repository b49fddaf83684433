"""Pauses that a text asks for: where it is cut, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orpheus.errors import BadRequest
from orpheus.text import StreamingSegmenter, segment_text
from orpheus.text.pauses import MAX_PAUSE_MS
from tests.support.virtual_time import VirtualTimeLoop


def parts(text: str) -> list[str | int]:
    """The segments: texts, and pauses in milliseconds."""
    return [segment.text or segment.pause_ms for segment in segment_text(text, "en", 280).segments]


@pytest.mark.parametrize(
    ("mark", "length_ms"),
    [
        ("[pause]", 750),
        ("[pause:2s]", 2000),
        ("[pause:500ms]", 500),
        ("[pause: 1.5 s]", 1500),
        ("[pause:1,5s]", 1500),
        ("[pause:.5s]", 500),
        ("[pause 3 seconds]", 3000),
        ("[pause=2]", 2000),
        ("[PAUSE:1S]", 1000),
        ("[break:1s]", 1000),
        ("[silence:1s]", 1000),
        ('<break time="2s"/>', 2000),
        ("<break time='500ms'>", 500),
        ('<break time="2s"></break>', 2000),
        ("<break time=2s />", 2000),
        ('<BREAK TIME="+1.25S"/>', 1250),
        ('<break strength="weak" time="2s"/>', 2000),
        ("<break/>", 750),
        ('<break time="soon"/>', 750),
        ('<break strength="x-weak"/>', 250),
        ('<break strength="weak"/>', 500),
        ('<break strength="medium"/>', 750),
        ('<break strength="strong"/>', 1000),
        ('<break strength="x-strong"/>', 1250),
        ("<pause 2s>", 2000),
        ("<pause:1.5s>", 1500),
        ('<pause duration="3s"/>', 3000),
        ('<silence msec="500"/>', 500),
        ('<break time="1e9s"/>', MAX_PAUSE_MS),
        ('<break time="1e999s"/>', MAX_PAUSE_MS),
        ("[pause:99999999999999999999s]", MAX_PAUSE_MS),
        ("[pause:6s] [pause:6s]", MAX_PAUSE_MS),
        ("[pause:1s]\n\n[pause:1s]...[pause:1s]", 3000),
        ("[pause:1s]" * 1000, MAX_PAUSE_MS),
    ],
)
def test_a_pause_is_as_long_as_it_says_within_a_bound(mark: str, length_ms: int) -> None:
    assert parts(f"Wait {mark} what is it?") == ["Wait.", length_ms, "what is it?"]


@pytest.mark.parametrize(
    "mark", ["[pause:0s]", "[pause:-1s]", '<break strength="none"/>', '<break time="-5s"/>']
)
def test_a_pause_of_nothing_cuts_nothing(mark: str) -> None:
    assert parts(f"Wait {mark} what is it?") == ["Wait what is it?"]


@pytest.mark.parametrize(
    "text", ["Wait (pause) here.", "Wait [pausing] here.", "Wait [pause for thought] here."]
)
def test_words_about_pausing_are_read(text: str) -> None:
    assert parts(text) == [text]


def test_a_pause_may_begin_and_end_a_text() -> None:
    assert parts("[pause:1s] Hello. [pause:2s]") == [1000, "Hello.", 2000]


def test_a_pause_takes_the_place_of_that_of_the_punctuation() -> None:
    segments = segment_text(
        "Here is a sentence of words. [pause:1s] And another, of words.", "en", 280
    ).segments
    assert [segment.pause_ms for segment in segments] == [0, 1000, 0]


def test_pauses_alone_are_nothing_to_say() -> None:
    with pytest.raises(BadRequest, match="nothing to say"):
        segment_text('[pause:1s] ... <break time="2s"/>', "en", 280)


def test_a_client_cannot_send_a_placeholder() -> None:
    assert parts("Wait \U000f07d0 what is it?") == ["Wait what is it?"]


class TestWhileItIsWritten:
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return "asyncio", {"loop_factory": VirtualTimeLoop}

    @pytest.mark.parametrize("fragment_chars", [1, 3, 7, 100])
    async def test_pauses_come_where_they_stand(self, fragment_chars: int) -> None:
        written = '[pause:1s]Hello, my dear. [pause:2s] How are you?<break time="1s"/> [pause:1s] Fine [pause:500ms]'
        text, found = StreamingSegmenter("en", 280, max_chars=1000), list[str | int]()

        async def speak() -> None:
            while (segment := await text.next(lambda: 0.0)) is not None:
                found.append(segment.text or segment.pause_ms)

        speaking = asyncio.create_task(speak())
        for start in range(0, len(written), fragment_chars):
            text.push(written[start : start + fragment_chars])
            await asyncio.sleep(0)
        text.end()
        await speaking
        assert [part for part in found if isinstance(part, str)] == [
            "Hello, my dear.",
            "How are you?",
            "Fine.",
        ]
        assert found[:4] == [1000, "Hello, my dear.", 2000, "How are you?"]
        assert sum(part for part in found if isinstance(part, int)) == 5500

    async def test_a_pause_is_begun_as_soon_as_it_is_asked_for(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=1000)
        text.push("Let me see. [pause:2s]")
        first = await asyncio.wait_for(text.next(lambda: 0.0), 0.01)
        second = await asyncio.wait_for(text.next(lambda: 0.0), 0.01)
        assert first is not None
        assert second is not None
        assert [(first.text, first.pause_ms), (second.text, second.pause_ms)] == [
            ("Let me see.", 0),
            ("", 2000),
        ]
        assert not text.exhausted

    async def test_a_pause_waits_for_something_to_say(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=1000)
        text.push("[pause:2s] [pause:3s]")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(text.next(lambda: 0.0), 60)
        text.end()
        assert await text.next(lambda: 0.0) is None

    async def test_pauses_are_not_among_the_words_received(self) -> None:
        text = StreamingSegmenter("en", 280, max_chars=1000)
        text.push("Hello [pause:2s] you.")
        text.end()
        while await text.next(lambda: 0.0):
            pass
        assert "".join(span.text for span in text.spans).split() == ["Hello", "you."]
