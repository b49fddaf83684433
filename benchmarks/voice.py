"""The embedded voice judged by machine, voice by voice, against its teacher: `python -m benchmarks.voice [--quick]`.

Sentences it never learned go through the real pipeline at default sampling, through the teacher, and (given the folder of
the recipe, whose coder makes the codes) through the codec alone. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.voice_judges import Row, Task, judge
from orpheus import weights
from orpheus.codec.checkpoint import read_config
from orpheus.errors import OrpheusError
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.settings import Settings, load_settings
from orpheus.tts.usage import Usage
from training import codes
from training.listen import word_error_rate, words
from training.samples import codebook_size
from training.speakers import SPEAKERS

SENTENCES = Path(__file__).with_name("voice_sentences.txt")
RESULTS = Path(__file__).parent / "results"
QUICK = 12  # sentences a voice
AT_ONCE = 4  # sentences spoken at once

Figures = dict[str, float | None]


@dataclass
class Spoken:
    """What the pipeline made of one sentence: samples, or None where it gave up; and whether a segment ran away."""

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


def by_voice(rows: list[Row], figure: Callable[[list[Row]], float | None]) -> Figures:
    """A figure of each voice, and of all rows together."""
    voices = {row.voice: None for row in rows}
    return {
        **{voice: figure([row for row in rows if row.voice == voice]) for voice in voices},
        "overall": figure(rows),
    }


def error_rate(rows: list[Row], kind: str, listener: str = "pocketsphinx") -> float | None:
    """Word error rate by one listener; silence counts as every word missed. None where this kind was not made at all."""
    if not any(kind in row.verdicts for row in rows):
        return None
    heard = [row.verdicts[kind].heard[listener] if kind in row.verdicts else "" for row in rows]
    return word_error_rate([row.text for row in rows], heard)


def mean_mos(rows: list[Row], kind: str) -> float | None:
    return _mean(row.verdicts[kind].mos for row in rows if kind in row.verdicts)


def words_per_minute(rows: list[Row], kind: str) -> float | None:
    said = [
        (len(words(row.text).split()), row.verdicts[kind].sound_s) for row in rows if kind in row.verdicts
    ]
    seconds = sum(spent for _, spent in said)
    return 60 * sum(count for count, _ in said) / seconds if seconds else None


def identity_accuracy(rows: list[Row], kind: str) -> Figures:
    """Of all pairs (an utterance, another voice): how often the utterance is nearer to its own voice than to that one.

    A voice is the mean of what it says; the utterance's own sentence is left out of both means.
    """
    said: dict[str, dict[str, NDArray[np.float32]]] = {}
    for row in rows:
        if kind in row.verdicts:
            said.setdefault(row.voice, {})[row.text] = row.verdicts[kind].identity

    def closeness(text: str, one: NDArray[np.float32], voice: str) -> float | None:
        others = [other for known, other in said[voice].items() if known != text]
        return (
            float(one @ np.mean(others, axis=0) / np.linalg.norm(np.mean(others, axis=0))) if others else None
        )

    nearer: dict[str, list[float]] = {voice: [] for voice in said}
    for voice, own in said.items():
        for text, one in own.items():
            home = closeness(text, one, voice)
            away = [closeness(text, one, other) for other in said if other != voice]
            nearer[voice] += [float(home > other) for other in away if home is not None and other is not None]
    figures: Figures = {voice: _mean(found) for voice, found in nearer.items()}
    return {**figures, "overall": _mean(one for found in nearer.values() for one in found)}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def summary(rows: list[Row], ran_away: dict[tuple[str, str], bool]) -> dict[str, Figures]:
    """Every figure by voice and overall. `ran_away`: (voice, text) → whether a segment of it ran away."""
    figures: dict[str, Figures] = {}
    for kind in ("teacher", "codec", "voice"):
        figures[f"wer_{kind}"] = by_voice(rows, partial(error_rate, kind=kind))
        figures[f"wer_whisper_{kind}"] = by_voice(rows, partial(error_rate, kind=kind, listener="whisper"))
    for kind in ("teacher", "voice"):
        figures[f"dnsmos_{kind}"] = by_voice(rows, partial(mean_mos, kind=kind))
    figures["identity_accuracy_teacher"] = identity_accuracy(rows, "teacher")
    figures["identity_accuracy"] = identity_accuracy(rows, "voice")
    for kind in ("teacher", "voice"):
        figures[f"words_per_minute_{kind}"] = by_voice(rows, partial(words_per_minute, kind=kind))
    figures["runaway_rate"] = by_voice(
        rows, lambda some: _mean(float(ran_away[row.voice, row.text]) for row in some)
    )
    figures["early_stop_rate"] = by_voice(rows, lambda some: _mean(float(row.early) for row in some))
    return figures


COLUMNS = {
    "WER teacher": ("wer_teacher", ".3f"),
    "WER codec": ("wer_codec", ".3f"),
    "WER voice": ("wer_voice", ".3f"),
    "Whisper: teacher": ("wer_whisper_teacher", ".3f"),
    "voice": ("wer_whisper_voice", ".3f"),
    "DNSMOS teacher": ("dnsmos_teacher", ".2f"),
    "DNSMOS voice": ("dnsmos_voice", ".2f"),
    "identity": ("identity_accuracy", ".1%"),
    "words/min teacher": ("words_per_minute_teacher", ".0f"),
    "words/min voice": ("words_per_minute_voice", ".0f"),
    "runaways": ("runaway_rate", ".1%"),
    "early stops": ("early_stop_rate", ".1%"),
}


def table(figures: dict[str, Figures]) -> str:
    """In Markdown, as the model card holds it."""
    lines = ["| voice | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for voice in [*(speaker.name for speaker in SPEAKERS), "overall"]:
        values = [(figures[key].get(voice), style) for key, style in COLUMNS.values()]
        cells = ["—" if value is None else format(value, style) for value, style in values]
        lines.append(f"| {voice} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mismatch(recipe: Path, codec: Path) -> str | None:
    """Why the codes of `recipe` cannot be spoken by `codec`; None where they can."""
    if not (recipe / "codes" / "coder.pt").exists():
        return f"{recipe} holds no codes/coder.pt: name the folder given to `python -m training --out`"
    made = codebook_size(len(codes.load(recipe)[0].fine.centres))
    spoken = read_config(codec).codes
    return None if made == spoken else f"the recipe makes {made} codes, {codec} speaks {spoken}"


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
