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
from multiprocessing import get_context
from pathlib import Path

from rich.progress import track

from benchmarks.speaking import SENTENCES, speak_all
from orpheus import weights
from orpheus.settings import load_settings
from training.figures import mismatch, summary, table
from training.judges import Task, judge
from training.speakers import SPEAKERS

RESULTS = Path(__file__).parent / "results"
QUICK = 12  # sentences a voice


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
