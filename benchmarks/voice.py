"""The embedded voice judged by machine, voice by voice, against its teacher: `python -m benchmarks.voice [--quick]`.

Sentences it never learned go through the real pipeline at default sampling, through the teacher, and (given the folder of
the recipe, whose coder makes the codes) through the codec alone. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from orpheus import weights
from orpheus.errors import OrpheusError
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.settings import Settings, load_settings
from orpheus.tts.usage import Usage
from training.figures import mismatch, summary, table
from training.judges import Task, judge
from training.speakers import SPEAKERS

SENTENCES = Path(__file__).with_name("voice_sentences.txt")
RESULTS = Path(__file__).parent / "results"
QUICK = 12  # sentences a voice
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
                segments = service.segment(request.input, params)
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.voice", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} sentences a voice instead of all 200")
    parser.add_argument("--sentences", type=int, help="a voice, from 2 to 200")
    parser.add_argument("--model", default="embedded", help="a GGUF instead of the embedded one")
    parser.add_argument("--codec", default="embedded", help="a SNAC folder instead of the embedded one")
    parser.add_argument(
        "--recipe", type=Path, help="folder of `python -m training`, to judge the codec alone"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that judge")
    chosen = parser.parse_args()
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()
    count = chosen.sentences or (QUICK if chosen.quick else len(texts))
    if not 2 <= count <= len(texts):
        parser.error(f"--sentences must be from 2 to {len(texts)}")
    texts = texts[:count]
    settings = load_settings(model=chosen.model, codec=chosen.codec)
    codec = weights.find_codec(settings)
    if chosen.recipe and (problem := mismatch(chosen.recipe, codec)):
        parser.error(problem)
    spoken = asyncio.run(speak_all(settings, texts))
    tasks = [
        Task(speaker, texts[n], one.samples, chosen.recipe, codec, keep=n == 0)
        for (speaker, n), one in sorted(spoken.items())
    ]
    # Processes, not threads: pocketsphinx and the teacher hold the interpreter's lock.
    with ProcessPoolExecutor(chosen.workers, get_context("spawn")) as pool:
        rows = list(track(pool.map(judge, tasks), "judging", len(tasks)))
    ran_away = {(SPEAKERS[speaker].name, texts[n]): one.ran_away for (speaker, n), one in spoken.items()}
    figures = summary(rows, ran_away)
    from benchmarks.voice_pictures import draw

    draw([row for row in rows if row.audio], RESULTS / "voice.jpg")
    print(
        f"{count} sentences a voice, word errors (WER) by pocketsphinx and by Whisper base, model {chosen.model}, codec {chosen.codec}\n"
    )
    print(table(figures) + "\n")
    rounded = {
        key: {voice: value and round(value, 4) for voice, value in values.items()}
        for key, values in figures.items()
    }
    print(json.dumps({"sentences": count, **rounded}))


if __name__ == "__main__":
    main()
