"""Sentences spoken by every embedded voice through the real pipeline, in this process."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from orpheus.errors import OrpheusError
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.settings import Settings
from orpheus.tts.usage import Usage
from training.speakers import SPEAKERS

SENTENCES = Path(__file__).with_name("voice_sentences.txt")  # which the embedded voice never learned
AT_ONCE = 4  # sentences spoken at once


@dataclass
class Spoken:
    """What the pipeline made of one sentence: samples, or None if it gave up; and whether a segment ran away."""

    samples: NDArray[np.int16] | None
    ran_away: bool


async def speak_all(settings: Settings, sentences: list[str]) -> dict[tuple[int, int], Spoken]:
    """(speaker, sentence) → what our voice says, by the pipeline in this process."""
    service = SpeechService.in_process(settings)
    gate = asyncio.Semaphore(AT_ONCE)
    made: dict[tuple[int, int], Spoken] = {}

    async def one(speaker: int, number: int) -> None:
        usage, chunks = Usage(), []
        request = SpeechRequest(
            input=sentences[number],
            voice=SPEAKERS[speaker].name,
            response_format="pcm",
            seed=1000 * speaker + number,
        )
        async with gate:
            try:
                params = service.params(request)
                segments = service.segment(request.input, params).source()
                async with aclosing(service.encoded(segments, params, usage)) as stream:
                    chunks = [chunk async for chunk in stream]
            except OrpheusError as error:
                print(f"{SPEAKERS[speaker].name}: {error}")
        samples = np.frombuffer(b"".join(chunks), "<i2") if chunks else None
        made[speaker, number] = Spoken(samples, not chunks or usage.regenerated_segments > 0)

    async with service.running():
        await service.loaded()
        todo = [one(speaker, number) for speaker in range(len(SPEAKERS)) for number in range(len(sentences))]
        for next_one in track(asyncio.as_completed(todo), "speaking", len(todo)):
            await next_one
    return made
