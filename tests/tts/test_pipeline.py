"""The pipeline over a scripted token source and the real codec."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable
from typing import Any

import numpy as np
import pytest

from orpheus.codec import Codec
from orpheus.errors import AtCapacity, EngineError, GenerationFailed
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.text import Segment, SegmentedText, segment_text
from orpheus.tts.params import SpeechParams
from orpheus.tts.pipeline import SpeechPipeline
from orpheus.tts.prebuffer import PrebufferEstimator
from orpheus.tts.served_model import ServedModel
from orpheus.tts.token_source import Generation, TokenChunk
from orpheus.tts.usage import Usage
from orpheus.vocabulary import number_of
from orpheus.voices import VOICES

pytestmark = pytest.mark.anyio
VOICED = (300, 41, 7, 260, 99, 411, 3)  # codes that sound


def frame(codes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(number_of(slot, code) for slot, code in enumerate(codes))


def spoken(*texts: str) -> SegmentedText:
    last = len(texts) - 1
    return SegmentedText(tuple(Segment(text, 250 if n < last else 0) for n, text in enumerate(texts)), 0)


class Scripted:
    """A token source that says, for each segment and attempt, what `script` returns."""

    def __init__(self, script: Callable[[str, int], list[Any]]) -> None:
        self.script = script
        self.asked: list[Generation] = []
        self.closed = 0

    async def generate(self, segment: Generation) -> AsyncGenerator[TokenChunk]:
        self.asked.append(segment)
        attempt = sum(asked.text == segment.text for asked in self.asked) - 1
        try:
            for item in self.script(segment.text, attempt):
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                if item in ("wait", "pause"):
                    await asyncio.sleep(60 if item == "wait" else 0.3)
                else:
                    yield item
        finally:
            self.closed += 1

    async def check(self) -> None: ...

    async def model(self, *, patient: bool = True) -> ServedModel:
        return ServedModel("embedded", wide_seeds=True)

    def forget(self) -> None: ...

    async def aclose(self) -> None: ...


def speech(frames: int = 5, reason: str = "stop", shift: int = 0) -> list[Any]:
    codes = [tuple((code + shift + n * 13) % 512 for code in VOICED) for n in range(frames)]
    return [*(TokenChunk(frame(row)) for row in codes), TokenChunk((), reason, 9)]  # type: ignore[arg-type]


async def speak(
    codec: Codec, source: Scripted, segments: list[str], usage: Usage | None = None, **settings: Any
) -> np.ndarray[Any, np.dtype[np.float32]]:
    pipeline = SpeechPipeline(
        source, codec, load_settings(model="embedded", **{"postprocess": False, **settings})
    )
    params = SpeechParams(VOICES["tara"], Sampling(seed=11), 900, 0.03)
    parts = [pcm async for pcm in pipeline.speak(spoken(*segments).source(), params, usage or Usage())]
    return np.concatenate(parts)


async def test_segments_are_spoken_in_order_with_a_seed_each(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: speech(4, shift=int(text)))
    usage = Usage()
    together = await speak(codec, source, ["1", "2", "3"], usage)
    assert [segment.sampling.seed for segment in source.asked] == [11, 12, 13]
    assert len(together) == usage.samples == 3 * 4 * 2048
    assert (len(usage.segments), usage.audio_tokens, usage.prompt_tokens) == (3, 84, 27)
    alone = await speak(codec, Scripted(lambda text, attempt: speech(4, shift=2)), ["2"])
    assert np.allclose(together[4 * 2048 : 8 * 2048], alone, atol=1e-5)


async def test_only_the_next_segment_is_generated_while_one_plays(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: speech(4))
    pipeline = SpeechPipeline(source, codec, load_settings(model="embedded", postprocess=False))
    params = SpeechParams(VOICES["tara"], Sampling(), 900, 0)
    stream = pipeline.speak(spoken("a", "b", "c", "d").source(), params, Usage())
    await anext(stream)
    await asyncio.sleep(0.2)
    assert [segment.text for segment in source.asked] == ["a", "b"]
    while len(source.asked) == 2:
        await anext(stream)
        await asyncio.sleep(0.01)
    assert [segment.text for segment in source.asked] == ["a", "b", "c"]
    await stream.aclose()


@pytest.mark.parametrize(
    "bad",
    [
        speech(0),  # nothing
        speech(60, reason="length"),  # no end
        [*(TokenChunk(frame(VOICED)) for _ in range(60)), TokenChunk((), "stop")],  # a loop
    ],
)
async def test_a_bad_segment_is_generated_again_with_another_seed(codec: Codec, bad: list[Any]) -> None:
    def script(text: str, attempt: int) -> list[Any]:
        return bad if text == "b" and attempt == 0 else speech(30)

    usage = Usage()
    source = Scripted(script)
    heard = await speak(codec, source, ["a", "b"], usage)
    assert len(heard) == 2 * 30 * 2048
    assert usage.regenerated_segments == 1
    seeds = [segment.sampling.seed for segment in source.asked if segment.text == "b"]
    assert len(set(seeds)) == 2


async def test_a_segment_that_fails_twice_is_an_error_after_the_audio_before_it(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: speech(0) if text == "b" else speech(4))
    with pytest.raises(GenerationFailed, match="stayed silent"):
        await speak(codec, source, ["a", "b"])
    with pytest.raises(GenerationFailed, match="stayed silent"):
        await speak(codec, source, ["b"])


async def test_a_first_segment_without_an_end_is_an_error_not_a_clean_one(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: speech(20, reason="length"))
    with pytest.raises(GenerationFailed, match="did not reach the end"):
        await speak(codec, source, ["a"])


async def test_a_bad_segment_held_by_the_prebuffer_is_generated_again(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orpheus.tts.pipeline.PrebufferEstimator.prebuffer_s", lambda *_, **__: 3.0
    )  # a busy tier 1
    source = Scripted(lambda text, attempt: speech(40) if attempt else speech(20, reason="length"))
    usage = Usage()
    assert len(await speak(codec, source, ["a"], usage)) == usage.samples == 40 * 2048
    assert usage.regenerated_segments == 1


async def test_listeners_who_come_together_hear_no_gap_and_a_lone_one_waits_for_nobody(codec: Codec) -> None:
    *frames, end = speech(30)
    source = Scripted(lambda text, attempt: [*frames[:2], "pause", *frames[2:], end])
    pipeline = SpeechPipeline(source, codec, load_settings(model="embedded", postprocess=False))
    params = SpeechParams(VOICES["tara"], Sampling(seed=11), 900, 0.03)

    async def listen() -> Usage:
        usage = Usage()
        async for _ in pipeline.speak(spoken("a").source(), params, usage):
            pass
        return usage

    lone = await listen()
    assert lone.first_audio_s is not None
    assert lone.first_audio_s < 0.2
    pipeline.prebuffer = PrebufferEstimator()  # an idle machine again
    together = await asyncio.gather(listen(), listen())
    assert [usage.playout.underruns for usage in together] == [0, 0]


async def test_a_bad_segment_held_by_the_leveler_is_generated_again(codec: Codec) -> None:
    async def heard(first: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        def script(text: str, attempt: int) -> list[Any]:
            return speech(12) if text == "One." or attempt else first

        return await speak(codec, Scripted(script), ["One.", "Two."], postprocess=True)

    *frames, end = speech(3, reason="length")  # less than the half second that loudness is judged by
    assert len(await heard([*frames, "pause", end])) == len(await heard(speech(0)))


async def test_a_full_tier_1_is_asked_again_for_later_segments_only(codec: Codec) -> None:
    def script(text: str, attempt: int) -> list[Any]:
        return [AtCapacity("full")] if text == "b" and attempt < 2 else speech(4)

    assert len(await speak(codec, Scripted(script), ["a", "b"])) == 2 * 4 * 2048
    with pytest.raises(AtCapacity):
        await speak(codec, Scripted(script), ["b"])


async def test_an_error_of_a_later_segment_comes_after_the_audio_before_it(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: [EngineError("broke")] if text == "b" else speech(4))
    pipeline = SpeechPipeline(source, codec, load_settings(model="embedded", postprocess=False))
    heard = 0
    with pytest.raises(EngineError, match="broke"):
        async for pcm in pipeline.speak(
            spoken("a", "b").source(), SpeechParams(VOICES["tara"], Sampling(), 900, 0), Usage()
        ):
            heard += len(pcm)
    assert heard == 4 * 2048


async def test_leaving_closes_every_generation_and_every_codec_stream(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: [*speech(4)[:-1], "wait"])
    pipeline = SpeechPipeline(source, codec, load_settings(model="embedded", postprocess=False))
    stream = pipeline.speak(
        spoken("a", "b").source(), SpeechParams(VOICES["tara"], Sampling(), 900, 0), Usage()
    )
    await anext(stream)
    await asyncio.sleep(0.05)
    await stream.aclose()
    assert source.closed == len(source.asked)
    assert codec.report()["open_streams"] == 0


async def test_joined_segments_have_the_pause_between_them_and_none_around(codec: Codec) -> None:
    source = Scripted(lambda text, attempt: speech(8))
    usage = Usage()
    heard = await speak(codec, source, ["One.", "Two."], usage, postprocess=True)
    assert len(heard) == usage.samples
    assert 2 * 8 * 2048 - 4800 < len(heard) < 2 * 8 * 2048 + 0.3 * 24_000 + 2000


def paused(text: str) -> SegmentedText:
    return segment_text(text, "en", 280)


async def speak_paused(
    codec: Codec, source: Scripted, text: str, usage: Usage, speed: float = 1.0, **settings: Any
) -> np.ndarray[Any, np.dtype[np.float32]]:
    pipeline = SpeechPipeline(
        source, codec, load_settings(model="embedded", **{"postprocess": False, **settings})
    )
    params = SpeechParams(VOICES["tara"], Sampling(seed=11), 900, 0.03, speed=speed)
    return np.concatenate([pcm async for pcm in pipeline.speak(paused(text).source(), params, usage)])


@pytest.mark.parametrize(
    ("text", "silences", "starts"),
    [
        ("Wait [pause:2s] what?", [(8192, 48_000)], [0, 8192 + 48_000]),
        ("[pause:1s] What?", [(0, 24_000)], [24_000]),
        ("Wait <break time='500ms'/>", [(8192, 12_000)], [0]),
        (
            "[pause:1ms] One. [pause:1s] Two. [pause:1s]",
            [(0, 24), (24 + 8192, 24_000)],
            [24, 24 + 8192 + 24_000],
        ),
    ],
)
async def test_a_pause_that_the_text_asks_for_is_exact_to_the_sample(
    codec: Codec, text: str, silences: list[tuple[int, int]], starts: list[int]
) -> None:
    source = Scripted(lambda text, attempt: speech(4))
    usage = Usage()
    heard = await speak_paused(codec, source, text, usage)
    asked_ms = sum(segment.pause_ms for segment in paused(text).segments if not segment.text)
    assert len(heard) == usage.samples == len(source.asked) * 4 * 2048 + asked_ms * 24
    for start, samples in silences:
        assert not heard[start : start + samples].any()
    assert usage.segment_starts == starts
    assert usage.playout.buffered_s() <= usage.samples / 24_000
    assert [generation.sampling.seed for generation in source.asked] == [11, 12][: len(source.asked)]


async def test_a_pause_follows_the_voice_exactly_with_post_processing_too(codec: Codec) -> None:
    async def heard(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        return await speak_paused(
            codec, Scripted(lambda text, attempt: speech(12)), text, Usage(), postprocess=True
        )

    short, long = await heard("One. [pause:1s] Two."), await heard("One. [pause:3s] Two.")
    assert len(long) - len(short) == 2 * 24_000
    assert 24_000 <= _longest_silence(short) < 24_000 + 0.1 * 24_000
    alone = await heard("[pause:1s] One.")
    assert not alone[:24_000].any()


async def test_a_pause_lasts_as_long_at_any_speed(codec: Codec) -> None:
    usage = Usage()
    await speak_paused(
        codec, Scripted(lambda text, attempt: speech(4)), "Wait [pause:1s] what?", usage, speed=2.0
    )
    assert usage.samples == 2 * 4 * 2048 + 48_000, "which are played in half the time"


async def test_the_pauses_of_a_text_are_bounded_in_all(codec: Codec) -> None:
    usage = Usage()
    await speak_paused(codec, Scripted(lambda text, attempt: speech(4)), "Yes. [pause:10s] " * 33, usage)
    assert usage.samples == 33 * 4 * 2048 + 300 * 24_000


async def test_a_pause_at_the_beginning_is_not_sent_before_the_voice_has_answered(codec: Codec) -> None:
    usage = Usage()
    with pytest.raises(AtCapacity):
        await speak_paused(
            codec, Scripted(lambda text, attempt: [AtCapacity("full")]), "[pause:1s] Hi.", usage
        )
    assert usage.samples == 0


async def test_a_pause_that_comes_late_takes_the_place_of_the_one_already_sent(codec: Codec) -> None:
    async def heard(*pieces: str) -> int:
        pipeline = SpeechPipeline(
            Scripted(lambda text, attempt: speech(12)),
            codec,
            load_settings(model="embedded", postprocess=True),
        )
        params = SpeechParams(VOICES["tara"], Sampling(seed=11), 900, 0.03)
        text = pipeline.segmenter(params, max_chars=1000)
        usage = Usage()

        async def write() -> None:
            text.push(pieces[0])
            for piece in pieces[1:]:
                await asyncio.sleep(0.5)
                text.push(piece)
            text.end()

        writing = asyncio.create_task(write())
        async for _ in pipeline.speak(text, params, usage):
            pass
        await writing
        return usage.samples

    assert (
        abs(
            await heard("I am here. ", "[pause:2s] So it is.")
            - await heard("I am here. [pause:2s] So it is.")
        )
        <= 1440
    )


async def pieces_within(
    codec: Codec, script: list[Any], seconds: float, *, gathers: bool
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """What is sent within so many seconds of one segment."""
    settings = load_settings(model="embedded", postprocess=False)
    pipeline = SpeechPipeline(Scripted(lambda text, attempt: script), codec, settings)
    params = SpeechParams(VOICES["tara"], Sampling(seed=11), 900, 0.03, gathers=gathers)
    pieces = []
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            contextlib.aclosing(pipeline.speak(spoken("Hi").source(), params, Usage())) as sent,
        ):
            async for pcm in sent:
                pieces.append(pcm)
    return pieces


async def test_frames_that_are_sent_together_have_the_same_samples_in_fewer_pieces(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "reserve_s", math.inf)  # it returns each frame by itself
    one_by_one = await pieces_within(codec, speech(40), 30, gathers=False)
    together = await pieces_within(codec, speech(40), 30, gathers=True)
    assert np.array_equal(np.concatenate(together), np.concatenate(one_by_one))
    assert len(one_by_one) >= 39
    assert len(together) <= 20


async def test_what_waits_for_more_leaves_before_its_listener_has_nothing_to_play(codec: Codec) -> None:
    script = [*speech(9)[:-1], "wait"]  # nine frames at once, and then nothing for a minute
    at_once = np.concatenate(await pieces_within(codec, script, 0.25, gathers=False))
    in_time = len(at_once) / 24_000 - 0.1
    assert np.array_equal(np.concatenate(await pieces_within(codec, script, in_time, gathers=True)), at_once)


def _longest_silence(pcm: np.ndarray[Any, np.dtype[np.float32]]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pcm == 0, [0]])))
    return int(max(edges[1::2] - edges[::2], default=0))
