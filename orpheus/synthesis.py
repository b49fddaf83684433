"""Text → PCM: the stages in order, with cancellation. Read this file first.

    text.split ─▶ tokens.generate ─▶ frames.FrameAssembler ─▶ codec.push ─▶ samples

Knows nothing of HTTP or of encodings. A text is spoken piece by piece: while one piece is heard the next is
generated, order is kept, and leaving the generator cancels whatever is under way.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orpheus import text as text_stage
from orpheus import weights
from orpheus.codec import Codec
from orpheus.errors import AtCapacity, EngineError
from orpheus.frames import FrameAssembler
from orpheus.sampling import Sampling
from orpheus.settings import EMBEDDED, Settings
from orpheus.tokens import Piece, TokenSource
from orpheus.voices import Voice

log = logging.getLogger(__name__)

Pcm = NDArray[np.float32]

# A generation that runs away is cut here: three times the tokens of slow speech (82 a second, 12 characters a
# second), and four seconds for laughs, sighs and silence.
TOKENS_PER_CHAR = 20
TOKENS_EXTRA = 330


@dataclass
class Usage:
    """What a request cost and how it went; filled in while it is spoken."""

    prompt_tokens: int = 0
    audio_tokens: int = 0
    samples: int = 0
    pieces: int = 0
    truncated_pieces: int = 0
    regenerated_pieces: int = 0
    resyncs: int = 0
    first_audio_s: float | None = None  # from the start of `speak` to the first samples
    started_s: float = field(default_factory=time.perf_counter)


class Synthesis:
    """The pipeline over one token source and one codec."""

    def __init__(self, source: TokenSource, codec: Codec, settings: Settings) -> None:
        self._source = source
        self._codec = codec
        self._settings = settings
        self.sample_rate = codec.sample_rate
        embedded = weights.codec_name(settings) == EMBEDDED
        self._piece_chars = settings.piece_chars or (110 if embedded else 280)

    def split(self, text: str, voice: Voice) -> list[str]:
        """The pieces a text is spoken in. BadRequest where there is nothing to say."""
        return text_stage.split(text, voice.language, self._piece_chars)

    async def speak(
        self, pieces: list[str], voice: Voice, sampling: Sampling, max_tokens: int, usage: Usage
    ) -> AsyncGenerator[Pcm]:
        """Samples of all pieces in order, mono float32 at `sample_rate`, as soon as they are final.

        `max_tokens` is the most a piece may take; what its length makes plausible limits it further.
        Piece n is sampled with seed + n, so a request with a seed is heard the same again.
        """
        seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
        usage.pieces = len(pieces)
        running: list[_Running] = []

        def start(index: int) -> None:
            text = pieces[index]
            budget = min(max_tokens, TOKENS_EXTRA + TOKENS_PER_CHAR * len(text))
            piece = Piece(voice.id, text, sampling.with_seed(seed + index), budget)
            running.append(_Running(self._say_later(piece, usage, wait=index > 0)))

        try:
            start(0)
            for index in range(len(pieces)):
                heard = False
                async for pcm in running[index]:
                    if usage.first_audio_s is None:
                        usage.first_audio_s = time.perf_counter() - usage.started_s
                    # The next piece starts once this one sounds: earlier it would only delay it.
                    if not heard and index + 1 < len(pieces):
                        start(index + 1)
                    heard = True
                    usage.samples += len(pcm)
                    yield pcm
                if not heard:
                    raise EngineError(
                        f"The model said nothing for piece {index + 1} of {len(pieces)}. "
                        "Try again, with another seed."
                    )
        finally:
            await _Running.cancel(running)

    async def _say_later(self, piece: Piece, usage: Usage, *, wait: bool) -> AsyncGenerator[Pcm]:
        """One piece; all but the first wait for a free slot instead of failing the whole request."""
        patience_ends = time.monotonic() + self._settings.stall_timeout_s
        while True:
            try:
                async with aclosing(self._say(piece, usage)) as samples:
                    async for pcm in samples:
                        yield pcm
                return
            except AtCapacity as error:  # raised before any token, so nothing is said twice
                if not wait or time.monotonic() > patience_ends:
                    raise
                await asyncio.sleep(min(error.retry_after_s, 0.2))

    async def _say(self, piece: Piece, usage: Usage) -> AsyncGenerator[Pcm]:
        """One piece: tokens to frames to samples."""
        assembler = FrameAssembler()
        decoder = self._codec.open(piece.sampling.seed or 0)
        try:
            async with aclosing(self._source.generate(piece)) as tokens:
                async for chunk in tokens:
                    usage.audio_tokens += len(chunk.numbers)
                    if codes := assembler.push(chunk.numbers):
                        pcm = await decoder.push(codes)
                        if len(pcm):
                            yield pcm
                    if chunk.finish_reason:
                        usage.prompt_tokens += chunk.prompt_tokens or 0
                    if chunk.finish_reason == "length":
                        usage.truncated_pieces += 1
                        log.warning("a piece of %d characters hit its token limit", len(piece.text))
            pcm = await decoder.finish()
            if len(pcm):
                yield pcm
        finally:
            decoder.close()
            usage.resyncs += assembler.resyncs


class _Running:
    """A generator that runs ahead of its reader. Bounded by what one piece can say."""

    _END = None

    def __init__(self, source: AsyncGenerator[Pcm]) -> None:
        self._queue: asyncio.Queue[Pcm | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(source))

    async def _run(self, source: AsyncGenerator[Pcm]) -> None:
        try:
            async with aclosing(source):
                async for pcm in source:
                    self._queue.put_nowait(pcm)
        finally:
            self._queue.put_nowait(self._END)

    async def __aiter__(self) -> AsyncGenerator[Pcm]:
        while (pcm := await self._queue.get()) is not self._END:
            yield pcm
        await self._task  # raises what ended it

    @staticmethod
    async def cancel(running: list[_Running]) -> None:
        """End all of them and wait until they are gone."""
        tasks = [piece._task for piece in running]
        for task in tasks:
            task.cancel()
        # Not `await task`: a caller that is itself cancelled, as starlette does again and again, would
        # cancel the cleaning up too, and the connection to tier 1 would stay open.
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen, so that asyncio does not report it as forgotten
