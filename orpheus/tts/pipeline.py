"""Text → PCM: the stages in order, with cancellation. Read this file first.

    text.segments ─▶ tokens.generate ─▶ frames.FrameAssembler ─▶ codec.push ─▶ joining ─▶ samples

Knows nothing of HTTP or of encodings. A text is spoken segment by segment: the next is generated as soon as one
is made, while that one is heard; order is kept, and leaving the generator cancels whatever is under way. A text
that is still being written is spoken the same way: its script gives a segment once there is one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass

from orpheus import text as text_stage
from orpheus import weights
from orpheus.codec import Codec
from orpheus.codec.pcm import Pcm
from orpheus.errors import AtCapacity, GenerationFailed
from orpheus.sampling import Sampling
from orpheus.settings import EMBEDDED, Settings
from orpheus.tasks import ended
from orpheus.text import Segment, SegmentedText, SegmentSource, StreamingSegmenter
from orpheus.tts.frames import FrameAssembler, RepetitionDetector
from orpheus.tts.postprocess import LEVEL_S, LoudnessLeveler, SilenceTrimmer
from orpheus.tts.prebuffer import PrebufferEstimator
from orpheus.tts.prefetch import Prefetch
from orpheus.tts.token_source import STALL_TIMEOUT_S, Generation, TokenChunk, TokenSource
from orpheus.tts.usage import Said, Usage
from orpheus.vocabulary import SLOTS
from orpheus.voices import Voice

# A generation that runs away is cut here: three times the tokens of slow speech (82 a second, 12 characters a
# second), and four seconds for laughs, sighs and silence.
TOKENS_PER_CHAR = 20
TOKENS_EXTRA = 330
QUICK_CHARS = 18  # a second: no speech is much shorter than its text at this rate
SEGMENT_CHARS, EMBEDDED_SEGMENT_CHARS = 280, 110  # most characters generated in one go
SILENCE_DB = -45  # RMS, in dB of full scale, below which 10 ms of sound count as silence
RESERVE_S = 1.0  # of audio in the listener's hands, kept when a segment is held back
AGAIN_S = 0.05  # until a full tier 1 is asked again: a listener runs dry while it is not
RETRY_SEED = 1 << 40  # added to the seed of a segment that is generated again


@dataclass(frozen=True)
class Manner:
    """How a text is spoken, once everything about it was checked."""

    voice: Voice
    sampling: Sampling
    max_tokens: int  # a segment
    lead_silence_s: float
    patient: bool = False  # waits where tier 1 is full, instead of failing at once


class SpeechPipeline:
    """The pipeline over one token source and one codec."""

    def __init__(self, source: TokenSource, codec: Codec, settings: Settings) -> None:
        self._source = source
        self._codec = codec
        self._settings = settings
        self.sample_rate = codec.sample_rate
        embedded = weights.codec_name(settings) == EMBEDDED
        self._segment_chars = EMBEDDED_SEGMENT_CHARS if embedded else SEGMENT_CHARS
        # The embedded voice learned single sentences: two or three in one go cost it a word in five.
        self._join_chars = 50 if embedded else None
        self._threshold = 10 ** (SILENCE_DB / 20)
        self._joins = settings.postprocess
        self._pace = PrebufferEstimator(LEVEL_S if self._joins else 0.0)

    def split(self, text: str, voice: Voice, *, normalize: bool = False) -> SegmentedText:
        """The segments a text is spoken in. BadRequest where there is nothing to say."""
        return text_stage.segment_text(
            text, voice.language, self._segment_chars, join_chars=self._join_chars, normalize=normalize
        )

    def live(self, voice: Voice, *, most_chars: int, normalize: bool = False) -> StreamingSegmenter:
        """The same for a text that is still being written, `most_chars` in all."""
        return StreamingSegmenter(
            voice.language,
            self._segment_chars,
            join_chars=self._join_chars,
            most_chars=most_chars,
            normalize=normalize,
        )

    async def speak(self, script: SegmentSource, manner: Manner, usage: Usage) -> AsyncGenerator[Pcm]:
        """Samples of all segments in order, mono float32 at `sample_rate`, as soon as they are final.

        Segment n is sampled with seed + n, so a request with a seed is heard the same again.
        """
        level = LoudnessLeveler(self.sample_rate, self._threshold)
        begun: asyncio.Queue[Prefetch[Pcm] | None] = asyncio.Queue()
        may_begin = asyncio.Semaphore()  # the first segment; then one for each that is heard
        running: list[Prefetch[Pcm]] = []

        async def generate() -> None:
            """Segment after segment, one ahead of the segment that is heard.

            Not two at once: they would share what tier 1 has for this listener, and the segment that is heard
            would come too late.
            """
            seed = random.getrandbits(62) if manner.sampling.seed is None else manner.sampling.seed
            while await may_begin.acquire():
                segment = await script.next(self._left_s(usage))
                if segment is None:
                    return
                ahead = Prefetch(self._attempts(segment, script, manner, seed + len(running), usage))
                running.append(ahead)
                begun.put_nowait(ahead)
                await ahead.settled()
                if not ahead.made:
                    return  # the listener is told when it comes to this segment

        generating = asyncio.create_task(generate())
        generating.add_done_callback(lambda _: begun.put_nowait(None))
        try:
            while (ahead := await usage.waiting(begun.get())) is not None:
                # While the listener has enough in hand, a segment is held until it is known to be good.
                await ahead.settled(max(0.0, usage.in_hand_s() - RESERVE_S))
                said = usage.said[running.index(ahead)]
                said.begins = usage.samples
                may_begin.release()
                if not usage.in_hand_s():
                    await self._prebuffer(ahead, said, script)
                async for pcm in ahead:
                    if pcm is None:
                        level.forget()
                    elif len(out := level.push(pcm) if self._joins else pcm):
                        ahead.sent = True
                        yield usage.count(out, self.sample_rate)
                if self._joins and len(out := level.finish()):
                    yield usage.count(out, self.sample_rate)
            await generating  # raises what the script refused
        finally:
            usage.removed_tags = script.removed_tags
            await ended([generating, *(ahead.task for ahead in running)])

    def _attempts(
        self, segment: Segment, script: SegmentSource, manner: Manner, seed: int, usage: Usage
    ) -> Callable[[int], AsyncGenerator[Pcm]]:
        """What makes a segment: for the first time, or again with another seed."""
        first = not usage.said
        said = Said(segment.text)
        usage.said.append(said)

        async def attempt(number: int) -> AsyncGenerator[Pcm]:
            usage.regenerated_segments += number > 0
            said.made = 0
            making = self._say(segment, script, manner, seed + number * RETRY_SEED, usage, said, first=first)
            async with aclosing(making) as samples:
                async for pcm in samples:
                    said.made += len(pcm)
                    yield pcm
            said.complete = True

        return attempt

    def _left_s(self, usage: Usage) -> Callable[[], float]:
        """Seconds of audio the listener will still have when the first of a segment begun now is there."""
        return lambda: max(0.0, usage.ahead_s(self.sample_rate) - self._pace.start_s())

    async def _prebuffer(self, segment: Prefetch[Pcm], said: Said, script: SegmentSource) -> None:
        """Return once what is there of a segment outlasts the wait for what a busy tier 1 makes next."""
        segment_s = None if script.exhausted else len(said.text) / QUICK_CHARS

        def seconds(made: Collection[Pcm | None]) -> float:
            return sum(len(pcm) for pcm in made if pcm is not None) / self.sample_rate

        await segment.gathered(lambda made: seconds(made) > 0)
        # No longer than that: a tier 1 that stops is no reason to keep what there is.
        await segment.gathered(
            lambda made: seconds(made) >= self._pace.prebuffer_s(segment_s), self._pace.prebuffer_s(segment_s)
        )

    async def _say(
        self,
        segment: Segment,
        script: SegmentSource,
        manner: Manner,
        seed: int,
        usage: Usage,
        said: Said,
        *,
        first: bool,
    ) -> AsyncGenerator[Pcm]:
        """One segment, trimmed. GenerationFailed where what came is not the speech of its text."""
        text = segment.text
        budget = min(manner.max_tokens, TOKENS_EXTRA + TOKENS_PER_CHAR * len(text))
        generation = Generation(manner.voice.id, text, manner.sampling.with_seed(seed), budget)
        trim = SilenceTrimmer(
            self.sample_rate,
            threshold=self._threshold,
            lead_s=manner.lead_silence_s if first else 0.0,
            pause_s=0.0 if script.exhausted else segment.pause_ms / 1000,
        )
        samples_made = 0
        async with aclosing(self._decode(generation, usage, wait=manner.patient or not first)) as samples:
            async for pcm in samples:
                samples_made += len(pcm)
                out = trim.push(pcm)
                if len(out := out if self._joins else pcm):
                    yield out
        if not samples_made or (self._joins and not trim.heard):
            raise GenerationFailed(
                f"The model said nothing for {_named(text)}. Try again, with another seed."
            )
        pause_s = 0.0 if script.exhausted else segment.pause_ms / 1000
        if self._joins and len(out := trim.finish(pause_s)):
            said.pause = min(trim.quiet + len(out), round(pause_s * self.sample_rate))
            yield out

    async def _decode(self, segment: Generation, usage: Usage, *, wait: bool) -> AsyncGenerator[Pcm]:
        """Tokens to frames to samples."""
        assembler, watch = FrameAssembler(), RepetitionDetector()
        decoder = self._codec.open(segment.sampling.seed or 0)
        asked_s = time.monotonic()
        frames, samples_s = 0, 0.0  # since samples came, and when that was
        try:
            async with aclosing(self._tokens(segment, wait=wait)) as tokens:
                async for chunk in tokens:
                    usage.audio_tokens += len(chunk.numbers)
                    if codes := assembler.push(chunk.numbers):
                        if watch.push(codes):
                            raise GenerationFailed(
                                f"The model repeats itself in {_named(segment.text)}. Try again, with another seed."
                            )
                        frames += len(codes) // SLOTS
                        pcm = await decoder.push(codes)
                        if len(pcm):
                            now_s = time.monotonic()
                            if samples_s:
                                self._pace.frames(frames, now_s - samples_s)
                            else:
                                self._pace.started(now_s - asked_s)
                            frames, samples_s = 0, now_s
                            yield pcm
                    if chunk.finish_reason:
                        usage.prompt_tokens += chunk.prompt_tokens or 0
                    if chunk.finish_reason == "length":
                        usage.truncated_segments += 1
                        raise GenerationFailed(
                            f"The model did not come to an end of {_named(segment.text)} within "
                            f"{segment.max_tokens} tokens. Try again, with another seed."
                        )
            pcm = await decoder.finish()
            if len(pcm):
                yield pcm
        finally:
            decoder.close()
            usage.resyncs += assembler.resyncs

    async def _tokens(self, segment: Generation, *, wait: bool) -> AsyncGenerator[TokenChunk]:
        """A segment's tokens; with `wait`, a full tier 1 is asked again instead of failing the whole request."""
        patience_ends = time.monotonic() + STALL_TIMEOUT_S
        while True:
            try:
                async with aclosing(self._source.generate(segment)) as tokens:
                    async for chunk in tokens:
                        yield chunk
                return
            except AtCapacity as error:  # raised before any token, so nothing is said twice
                if not wait or time.monotonic() > patience_ends:
                    raise
                await asyncio.sleep(min(error.retry_after_s, AGAIN_S))


def _named(text: str) -> str:
    """A segment in an error, which may be logged: never its text."""
    return f"a segment of {len(text)} characters"
