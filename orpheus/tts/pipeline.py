"""Text → PCM: the stages of tier 2 in order, with cancellation. Read this file first.

    segments ─▶ token source ─▶ frames ─▶ codec ─▶ trim ─▶ prebuffer ─▶ level ─▶ samples

A text is spoken segment by segment: the next is generated as soon as one is complete, while that one is heard. Order is
kept, and closing the generator cancels everything that is running. Text that is still being written is spoken the
same way: its segmenter hands out a segment once there is one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

from orpheus import weights
from orpheus.codec import Codec
from orpheus.codec.pcm import Pcm
from orpheus.errors import AtCapacity, GenerationFailed
from orpheus.settings import EMBEDDED, Settings
from orpheus.tasks import cancel_and_wait
from orpheus.text import Segment, SegmentedText, SegmentSource, StreamingSegmenter, segment_text
from orpheus.tts.frames import FrameAssembler, RepetitionDetector
from orpheus.tts.params import SpeechParams
from orpheus.tts.postprocess import LEVEL_S, LoudnessLeveler, SilenceTrimmer
from orpheus.tts.prebuffer import PrebufferEstimator
from orpheus.tts.prefetch import Prefetch
from orpheus.tts.token_source import STALL_TIMEOUT_S, Generation, TokenChunk, TokenSource
from orpheus.tts.usage import Usage
from orpheus.vocabulary import SLOTS

SEGMENT_CHARS = 280  # most characters generated in one go
# The embedded voice learned single sentences: with two or three in one go it gets a word in five wrong.
EMBEDDED_SEGMENT_CHARS, EMBEDDED_JOIN_CHARS = 110, 50
# A generation that runs away is cut here: three times the tokens of slow speech (82 a second, 12 characters a
# second), and four seconds for laughs, sighs and silence.
TOKENS_PER_CHAR = 20
TOKENS_EXTRA = 330
FAST_CHARS_PER_S = 18  # hardly any speech is faster than this
SILENCE_RMS = 10 ** (-45 / 20)  # of full scale: quieter blocks count as silence
RESERVE_S = 1.0  # of audio the listener keeps when a segment is held back
RETRY_S = 0.05  # between two requests to a full tier 1; meanwhile a listener runs dry
RETRY_SEED = 1 << 40  # added to the seed of a segment that is generated again


class SpeechPipeline:
    """The stages over one token source and one codec."""

    def __init__(self, source: TokenSource, codec: Codec, settings: Settings) -> None:
        self.sample_rate = codec.sample_rate  # Hz, of the samples that `speak` yields
        self.source = source
        self.codec = codec
        self.postprocess = settings.postprocess
        embedded = weights.codec_name(settings) == EMBEDDED
        self._segment_chars = EMBEDDED_SEGMENT_CHARS if embedded else SEGMENT_CHARS
        self._join_chars = EMBEDDED_JOIN_CHARS if embedded else None
        self.prebuffer = PrebufferEstimator(LEVEL_S if settings.postprocess else 0.0)

    def segment(self, text: str, params: SpeechParams) -> SegmentedText:
        """Cut a complete text into segments. BadRequest where there is nothing to say."""
        return segment_text(
            text,
            params.voice.language,
            self._segment_chars,
            join_chars=self._join_chars,
            normalize=params.normalize,
        )

    def segmenter(self, params: SpeechParams, *, max_chars: int) -> StreamingSegmenter:
        """The same for text that is still being written, at most `max_chars` in all."""
        return StreamingSegmenter(
            params.voice.language,
            self._segment_chars,
            join_chars=self._join_chars,
            max_chars=max_chars,
            normalize=params.normalize,
        )

    async def speak(self, source: SegmentSource, params: SpeechParams, usage: Usage) -> AsyncGenerator[Pcm]:
        """Samples of all segments in order: mono float32 at `sample_rate`, as soon as they are final.

        Segment n is sampled with seed + n, so a request with a seed sounds the same every time.
        """
        utterance = _Utterance(self, source, params, usage)
        leveler = LoudnessLeveler(self.sample_rate, SILENCE_RMS)
        heard_rate = self.sample_rate * params.speed
        try:
            current = await usage.waiting(utterance.begin_after(None))
            while current is not None:
                # While the listener has enough in hand, a segment is held until it is known to be good.
                await current.audio.settled(max(0.0, usage.playout.buffered_s() - RESERVE_S))
                current.segment.start = usage.samples
                following = utterance.begin_after(current)
                if not usage.playout.buffered_s():
                    await utterance.fill_prebuffer(current)
                async for pcm in current.audio:
                    if pcm is None:
                        leveler.reset()
                    elif len(out := leveler.push(pcm) if self.postprocess else pcm):
                        current.audio.sent = True
                        yield usage.count(out, heard_rate)
                if self.postprocess and len(out := leveler.finish()):
                    yield usage.count(out, heard_rate)
                current = await usage.waiting(following)
        finally:
            usage.removed_tags = source.removed_tags
            await utterance.close()


class _Generating(NamedTuple):
    """A segment that was begun, and its audio as it is generated."""

    segment: Segment
    audio: Prefetch[Pcm]


class _Utterance:
    """The segments of one text, one generated ahead of the one that is heard.

    Not two: they would share what tier 1 has for this listener, and the one that is heard would come too late.
    """

    def __init__(
        self, pipeline: SpeechPipeline, source: SegmentSource, params: SpeechParams, usage: Usage
    ) -> None:
        self._pipeline = pipeline
        self._source = source
        self._params = params
        self._usage = usage
        seed = params.sampling.seed
        self._seed = random.getrandbits(62) if seed is None else seed
        self._tasks: list[asyncio.Future[Any]] = []

    def begin_after(self, previous: _Generating | None) -> asyncio.Task[_Generating | None]:
        """The next segment, begun once `previous` is complete; None after the last, or where `previous` failed.

        Raises what the source refuses: BadRequest, TooLarge.
        """
        task = asyncio.create_task(self._begin(previous))
        self._tasks.append(task)
        return task

    async def close(self) -> None:
        """Cancel everything that runs, down to tier 1, and wait until it is gone."""
        await cancel_and_wait(self._tasks)

    async def _begin(self, previous: _Generating | None) -> _Generating | None:
        if previous is not None:
            await previous.audio.settled()
            if not previous.audio.made:
                return None  # whoever reads it learns why
        segment = await self._source.next(self._left_s)
        if segment is None:
            return None
        number = len(self._usage.segments)
        self._usage.segments.append(segment)
        audio = Prefetch(partial(self._generate, segment, number))
        self._tasks.append(audio.task)
        return _Generating(segment, audio)

    def _left_s(self) -> float:
        """Seconds of audio the listener will still have when a segment begun now starts to sound."""
        generated_s = self._usage.generated_s(self._pipeline.sample_rate * self._params.speed)
        return max(0.0, generated_s - self._pipeline.prebuffer.start_s())

    async def fill_prebuffer(self, current: _Generating) -> None:
        """Wait until what there is of a segment outlasts the wait for what a busy tier 1 generates next."""
        estimator, rate = self._pipeline.prebuffer, self._pipeline.sample_rate
        last = self._source.exhausted
        segment_s = None if last else len(current.segment.text) / FAST_CHARS_PER_S

        def seconds(generated: Collection[Pcm | None]) -> float:
            return sum(len(pcm) for pcm in generated if pcm is not None) / rate

        await current.audio.gathered(lambda generated: seconds(generated) > 0)
        # No longer than that: a tier 1 that stops is no reason to keep what there is.
        await current.audio.gathered(
            lambda generated: seconds(generated) >= estimator.prebuffer_s(segment_s),
            estimator.prebuffer_s(segment_s),
        )

    async def _generate(self, segment: Segment, number: int, attempt: int) -> AsyncGenerator[Pcm]:
        """One segment's samples, trimmed; generated again with another seed where `attempt` is not 0.

        GenerationFailed where what came is not the speech of its text.
        """
        pipeline, params, usage = self._pipeline, self._params, self._usage
        usage.regenerated_segments += attempt > 0
        segment.samples = 0
        trimmer = SilenceTrimmer(
            pipeline.sample_rate,
            threshold=SILENCE_RMS,
            lead_s=0.0 if number else params.lead_silence_s,
            pause_s=self._pause_s(segment),
        )
        generation = Generation(
            params.voice.id,
            segment.text,
            params.sampling.with_seed(self._seed + number + attempt * RETRY_SEED),
            min(params.max_tokens, TOKENS_EXTRA + TOKENS_PER_CHAR * len(segment.text)),
        )
        decoded = 0
        async with aclosing(self._decode(generation, patient=params.patient or number > 0)) as samples:
            async for pcm in samples:
                decoded += len(pcm)
                trimmed = trimmer.push(pcm)
                out = trimmed if pipeline.postprocess else pcm
                if len(out):
                    segment.samples += len(out)
                    yield out
        if not decoded or (pipeline.postprocess and not trimmer.heard):
            raise GenerationFailed(
                f"The model stayed silent for {_named(segment.text)}. Try again, with another seed."
            )
        pause_s = self._pause_s(segment)
        if pipeline.postprocess and len(out := trimmer.finish(pause_s)):
            segment.pause_samples = min(trimmer.quiet + len(out), round(pause_s * pipeline.sample_rate))
            segment.samples += len(out)
            yield out
        segment.complete = True

    def _pause_s(self, segment: Segment) -> float:
        """Silence after a segment: none after the last."""
        return 0.0 if self._source.exhausted else segment.pause_ms / 1000

    async def _decode(self, generation: Generation, *, patient: bool) -> AsyncGenerator[Pcm]:
        """Tokens → frames → samples, and how long each took."""
        usage, estimator = self._usage, self._pipeline.prebuffer
        assembler, repetition = FrameAssembler(), RepetitionDetector()
        decoder = self._pipeline.codec.open(generation.sampling.seed or 0)
        asked_s = time.monotonic()
        frames, samples_s = 0, 0.0  # since samples came, and when that was
        try:
            async with aclosing(self._tokens(generation, patient=patient)) as tokens:
                async for chunk in tokens:
                    usage.audio_tokens += len(chunk.numbers)
                    if codes := assembler.push(chunk.numbers):
                        if repetition.push(codes):
                            raise GenerationFailed(
                                f"The model repeats itself in {_named(generation.text)}. Try again, with another seed."
                            )
                        frames += len(codes) // SLOTS
                        pcm = await decoder.push(codes)
                        if len(pcm):
                            now_s = time.monotonic()
                            if samples_s:
                                estimator.frames(frames, now_s - samples_s)
                            else:
                                estimator.started(now_s - asked_s)
                            frames, samples_s = 0, now_s
                            yield pcm
                    if chunk.finish_reason:
                        usage.prompt_tokens += chunk.prompt_tokens or 0
                    if chunk.finish_reason == "length":
                        usage.truncated_segments += 1
                        raise GenerationFailed(
                            f"The model did not reach the end of {_named(generation.text)} within "
                            f"{generation.max_tokens} tokens. Try again, with another seed."
                        )
            pcm = await decoder.finish()
            if len(pcm):
                yield pcm
        finally:
            decoder.close()
            usage.resyncs += assembler.resyncs

    async def _tokens(self, generation: Generation, *, patient: bool) -> AsyncGenerator[TokenChunk]:
        """A segment's tokens. If `patient`, a full tier 1 is asked again instead of failing the whole request."""
        gives_up_s = time.monotonic() + STALL_TIMEOUT_S
        while True:
            try:
                async with aclosing(self._pipeline.source.generate(generation)) as tokens:
                    async for chunk in tokens:
                        yield chunk
                return
            except AtCapacity as error:  # raised before any token, so nothing is spoken twice
                if not patient or time.monotonic() > gives_up_s:
                    raise
                await asyncio.sleep(min(error.retry_after_s, RETRY_S))


def _named(text: str) -> str:
    """A segment in an error, which may be logged: never its text."""
    return f"a segment of {len(text)} characters"
