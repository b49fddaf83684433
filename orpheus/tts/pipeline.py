"""Text → PCM: the stages of tier 2 in order, with cancellation. Read this file first.

    segments ─▶ token source ─▶ frames ─▶ codec ─▶ trim ─▶ prebuffer ─▶ level ─▶ samples

A text is spoken segment by segment: as soon as one is complete the next is generated, while the listener plays the
first. Segments keep their order, and closing the generator cancels everything that is running. Text that is still being
written is spoken the same way, as its segmenter yields segments.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from orpheus import tracing
from orpheus.codec import Codec
from orpheus.errors import AtCapacity, GenerationFailed, NotReady, SetupError
from orpheus.pcm import Pcm
from orpheus.settings import Settings
from orpheus.tasks import cancel_and_wait
from orpheus.text import Segment, SegmentedText, SegmentSource, StreamingSegmenter, segment_text
from orpheus.text.pauses import MAX_PAUSE_MS, MAX_TOTAL_PAUSE_MS
from orpheus.tts.frames import FrameAssembler, RepetitionDetector
from orpheus.tts.params import SpeechParams
from orpheus.tts.postprocess import LEVEL_S, LoudnessLeveler, SilenceTrimmer
from orpheus.tts.prebuffer import PrebufferEstimator
from orpheus.tts.prefetch import Prefetch
from orpheus.tts.served_model import ServedModel, check_fit, named_model
from orpheus.tts.token_source import Generation, TokenChunk, TokenSource
from orpheus.tts.traced import traced_decoder
from orpheus.tts.usage import Usage
from orpheus.vocabulary import FRAME_S, SLOTS

# A generation that runs away is cut here: three times the tokens of slow speech (82 a second, 12 characters a
# second), and four seconds for laughs, sighs and silence.
TOKENS_PER_CHAR = 20
TOKENS_EXTRA = 330
FAST_CHARS_PER_S = 18  # hardly any speech is faster than this
SILENCE_RMS = 10 ** (-45 / 20)  # of full scale: quieter blocks count as silence
SILENCE_CHUNK_S = 0.1  # of a pause that the text asks for
RESERVE_S = 1.0  # of audio the listener keeps when a segment is held back
# So many frames are sent together, which costs less than one by one: the encoder's thread, the send, the client's
# waking. They are sent at once if the listener has no more than this left, which outlasts what a network delays.
GATHER_FRAMES = 4
GATHER_RESERVE_S = 0.25
CAPACITY_WAIT_S = 30.0  # how long a patient request waits for a full tier 1: later its listener would be gone
RETRY_S = 0.05  # between two requests to a full tier 1; meanwhile a listener runs dry
# Added to the seed of a segment that is generated again. Odd and of 31 bits: another seed also where no more count.
RETRY_SEED = 0x4F1BBCDD


class SpeechPipeline:
    """The stages over one token source and one codec."""

    def __init__(
        self, token_source: TokenSource, codec: Codec, settings: Settings, model: ServedModel | None = None
    ) -> None:
        """`model`: what tier 1 serves, if it has told; otherwise what the settings name."""
        self.model = model or named_model(settings)
        self.sample_rate = codec.sample_rate  # Hz, of the samples that `speak` yields
        self.token_source = token_source
        self.codec = codec
        self.postprocess = settings.postprocess
        self.prebuffer = PrebufferEstimator(LEVEL_S if settings.postprocess else 0.0)

    def segment(self, text: str, params: SpeechParams) -> SegmentedText:
        """Cut a complete text into segments. BadRequest if nothing in it can be spoken."""
        return segment_text(
            text,
            params.voice.language,
            self.model.segment_chars,
            tags=params.voice.tags,
            join_chars=self.model.join_chars,
            normalize=params.normalize,
            skip_directions=params.skip_directions,
        )

    def segmenter(self, params: SpeechParams, *, max_chars: int) -> StreamingSegmenter:
        """The same for text that is still being written, at most `max_chars` in all."""
        return StreamingSegmenter(
            params.voice.language,
            self.model.segment_chars,
            tags=params.voice.tags,
            join_chars=1
            if params.split == "sentence"
            else self.model.join_chars,  # a segment of two could not be split
            max_chars=max_chars,
            normalize=params.normalize,
            skip_directions=params.skip_directions,
        )

    async def check(self) -> None:
        """Raise NotReady with the reason unless a request would be served now."""
        self.codec.check()
        await self.token_source.check()
        self.use(await self.token_source.model(patient=False))

    def use(self, model: ServedModel) -> None:
        """Go by what tier 1 serves now. NotReady if it is nothing that this codec can speak."""
        if model is self.model:
            return
        try:
            check_fit(model, self.codec.decoder.config)
        except SetupError as error:
            self.token_source.forget()
            raise NotReady(str(error)) from error
        self.model = model

    def playout_rate(self, params: SpeechParams) -> float:
        """Of the samples that `speak` yields, those that a second of playout takes."""
        return self.sample_rate * params.speed

    async def speak(self, segments: SegmentSource, params: SpeechParams, usage: Usage) -> AsyncGenerator[Pcm]:
        """Samples of all segments in order: mono float32 at `sample_rate`, as soon as they are final.

        Segment n is sampled with seed + n, so a request with a seed sounds the same every time.
        """
        run = _SpeakRun(self, segments, params, usage)
        leveler = LoudnessLeveler(self.sample_rate, SILENCE_RMS)
        playout_rate = self.playout_rate(params)
        try:
            current = await usage.waiting(run.begin_after(None))
            while current is not None:
                # While the listener has enough audio in hand, a segment is held until its generation has succeeded.
                await current.audio.settled(max(0.0, usage.playout.buffered_s() - RESERVE_S))
                current.segment.start = usage.samples
                following = run.begin_after(current)
                if current.is_pause and not usage.samples:
                    await run.answered(await usage.waiting(following))
                if not usage.playout.buffered_s():
                    await run.fill_prebuffer(current)
                async for pcm in current.audio:
                    if pcm is None:
                        leveler.reset()
                        continue
                    if params.gathers:
                        pcm = np.concatenate([pcm, *current.audio.take(GATHER_FRAMES - 1)])
                    if len(out := leveler.level(pcm) if self.postprocess and not current.is_pause else pcm):
                        current.audio.sent = True
                        yield usage.count(out, playout_rate)
                    if params.gathers and (spare_s := usage.playout.buffered_s() - GATHER_RESERVE_S) > 0:
                        await current.audio.gathered(self._are_together, spare_s)
                if self.postprocess and len(out := leveler.finish()):
                    yield usage.count(out, playout_rate)
                current = await usage.waiting(following)
        finally:
            usage.removed_tags, usage.left_out_chars = segments.removed_tags, segments.left_out_chars
            await run.close()

    def _are_together(self, unread: Collection[Pcm | None]) -> bool:
        return _samples_of(unread) >= GATHER_FRAMES * FRAME_S * self.sample_rate


def _samples_of(generated: Collection[Pcm | None]) -> int:
    return sum(len(pcm) for pcm in generated if pcm is not None)


class _Generating(NamedTuple):
    """A segment that was begun, and its audio as it is generated."""

    segment: Segment
    audio: Prefetch[Pcm]

    @property
    def is_pause(self) -> bool:
        return not self.segment.text


class _SpeakRun:
    """The segments of one text, each generated while the one before it plays.

    Never two at once: they would share the listener's part of tier 1, and the one that is due would come too late.
    """

    def __init__(
        self, pipeline: SpeechPipeline, segments: SegmentSource, params: SpeechParams, usage: Usage
    ) -> None:
        self._pipeline = pipeline
        self._segments = segments
        self._params = params
        self._usage = usage
        seed = params.sampling.seed
        self._seed = random.getrandbits(62) if seed is None else seed
        self._tasks: list[asyncio.Future[Any]] = []
        self._paused_ms = 0  # since something was said
        self._total_paused_ms = 0

    def begin_after(self, previous: _Generating | None) -> asyncio.Task[_Generating | None]:
        """The next segment, begun once `previous` is complete; None after the last, or if `previous` failed.

        Raises what the source raises: BadRequest, TooLarge.
        """
        task = asyncio.create_task(self._begin(previous))
        self._tasks.append(task)
        return task

    async def close(self) -> None:
        """Cancel everything that runs, down to tier 1, and wait until it has ended."""
        await cancel_and_wait(self._tasks)

    async def _begin(self, previous: _Generating | None) -> _Generating | None:
        if previous is not None:
            await previous.audio.settled()
            if not previous.audio.made:
                return None  # whoever reads it learns why
        segment = await self._segments.next(self._left_s)
        if segment is None:
            return None
        if segment.text:
            self._paused_ms = 0
            number = len(self._usage.segments)
            self._usage.begin(segment)
            generate = partial(self._generate, segment, number)
            audio = Prefetch(
                tracing.each(
                    "segment", generate, segment=number, chars=len(segment.text), voice=self._params.voice.id
                )
            )
        else:
            given = previous.segment.pause_samples if previous is not None else 0
            self._usage.pauses.append(segment)
            audio = Prefetch(partial(self._silence, segment, self._silence_samples(segment) - given))
        self._tasks.append(audio.task)
        return _Generating(segment, audio)

    def _left_s(self) -> float:
        """Seconds of audio the listener will still have when a segment begun now starts to sound."""
        generated_s = self._usage.generated_s(self._pipeline.playout_rate(self._params))
        return max(0.0, generated_s - self._pipeline.prebuffer.start_s())

    async def fill_prebuffer(self, current: _Generating) -> None:
        """Wait until the audio in hand outlasts the expected wait for the next, which grows while tier 1 is busy."""
        estimator, rate = self._pipeline.prebuffer, self._pipeline.sample_rate
        segment_s = len(current.segment.text) / FAST_CHARS_PER_S
        last = self._segments.exhausted
        in_hand_s = 0.0

        def more_than(had_s: float, generated: Collection[Pcm | None]) -> bool:
            nonlocal in_hand_s
            in_hand_s = _samples_of(generated) / rate
            return in_hand_s > had_s

        await current.audio.gathered(partial(more_than, 0.0))
        first_s, since_s = in_hand_s, time.monotonic()
        while not current.audio.task.done():
            wanted_s = estimator.prebuffer_s(segment_s, last=last)
            # What has been waited counts like audio: the next is as much nearer. And if tier 1 stops, nothing is gained.
            left_s = wanted_s - first_s - (time.monotonic() - since_s)
            if left_s <= 0 or in_hand_s >= wanted_s:
                break
            await current.audio.gathered(partial(more_than, in_hand_s), left_s)

    async def answered(self, following: _Generating | None) -> None:
        """Return once the voice has answered, or raise why it did not: a pause at the beginning is not sent before."""
        if following is not None:
            await following.audio.gathered(lambda generated: any(pcm is not None for pcm in generated))
            if following.audio.task.done():
                await following.audio.task

    def _silence_samples(self, segment: Segment) -> int:
        """How long the pause is heard, whatever the speed."""
        left_ms = min(MAX_PAUSE_MS - self._paused_ms, MAX_TOTAL_PAUSE_MS - self._total_paused_ms)
        pause_ms = min(segment.pause_ms, left_ms)
        self._paused_ms += pause_ms
        self._total_paused_ms += pause_ms
        return round(pause_ms / 1000 * self._pipeline.playout_rate(self._params))

    async def _silence(self, segment: Segment, samples: int, attempt: int) -> AsyncGenerator[Pcm]:
        """A pause that the text asks for."""
        del attempt  # it cannot fail
        segment.samples = max(0, samples)
        chunk = round(SILENCE_CHUNK_S * self._pipeline.sample_rate)
        for start in range(0, samples, chunk):
            yield np.zeros(min(chunk, samples - start), np.float32)
        segment.complete = True

    async def _generate(self, segment: Segment, number: int, attempt: int) -> AsyncGenerator[Pcm]:
        """One segment's samples, trimmed; generated with another seed if `attempt` is not 0.

        GenerationFailed if the model looped, stayed silent or did not finish.
        """
        pipeline, params, usage = self._pipeline, self._params, self._usage
        usage.regenerated_segments += attempt > 0
        tracing.note(attempt=attempt)
        segment.samples = 0
        trimmer = SilenceTrimmer(
            pipeline.sample_rate,
            threshold=SILENCE_RMS,
            lead_silence_s=0.0 if number else params.lead_silence_s,
            pause_s=self._pause_s(segment),
        )
        generation = Generation(
            params.voice,
            segment.text,
            params.sampling.with_seed(self._seed + number + attempt * RETRY_SEED),
            min(params.max_tokens, TOKENS_EXTRA + TOKENS_PER_CHAR * len(segment.text)),
        )
        decoded = 0
        async with aclosing(self._decode(generation, patient=params.patient or number > 0)) as samples:
            async for pcm in samples:
                decoded += len(pcm)
                trimmed = trimmer.trim(pcm)
                out = trimmed if pipeline.postprocess else pcm
                if len(out):
                    usage.reach("silence")
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
        return 0.0 if self._segments.exhausted else segment.pause_ms / 1000

    async def _decode(self, generation: Generation, *, patient: bool) -> AsyncGenerator[Pcm]:
        """Tokens → frames → samples; reports their delays to the prebuffer estimator."""
        usage, estimator = self._usage, self._pipeline.prebuffer
        assembler, repetition = FrameAssembler(), RepetitionDetector()
        decoder = traced_decoder(
            self._pipeline.codec.open(generation.sampling.seed or 0, due_s=usage.playout.ends_s or 0.0)
        )
        asked_s = time.monotonic()
        frames, samples_s = 0, 0.0  # since samples came, and when that was
        estimator.streams += 1
        try:
            async with aclosing(self._tokens(generation, patient=patient)) as tokens:
                async for chunk in tokens:
                    usage.audio_tokens += len(chunk.numbers)
                    if codes := assembler.assemble(chunk.numbers):
                        if repetition.detect(codes):
                            raise GenerationFailed(
                                f"The model repeats itself in {_named(generation.text)}. Try again, with another seed."
                            )
                        frames += len(codes) // SLOTS
                        received_s = time.monotonic()
                        usage.reach("first_frame", received_s)
                        pcm = await decoder.decode(codes)
                        if len(pcm):
                            now_s = time.monotonic()
                            usage.reach("frames", received_s)
                            usage.reach("codec_queue", decoder.taken_s)
                            usage.reach("codec", now_s)
                            if samples_s:
                                estimator.frames(frames, now_s - samples_s)
                            else:
                                estimator.started(now_s - asked_s)
                                tracing.record("first audio", asked_s, now_s)
                            frames, samples_s = 0, now_s
                            yield pcm
                    if chunk.finish_reason:
                        usage.prompt_tokens += chunk.prompt_tokens or 0
                        tracing.note(finish_reason=chunk.finish_reason)
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
            estimator.streams -= 1
            decoder.close()
            usage.resyncs += assembler.resyncs

    async def _tokens(self, generation: Generation, *, patient: bool) -> AsyncGenerator[TokenChunk]:
        """A segment's tokens. If `patient`, a full tier 1 is asked again instead of failing the whole request."""
        gives_up_s = time.monotonic() + CAPACITY_WAIT_S
        source = self._pipeline.token_source
        while True:
            self._pipeline.use(await source.model())
            try:
                async with aclosing(source.generate(generation)) as tokens:
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
