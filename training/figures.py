"""Verdicts on many utterances → the figures of a voice, by voice and overall, and their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orpheus.codec.checkpoint import read_config
from training import codes
from training.judges import Row
from training.listen import word_error_rate, words
from training.samples import codebook_size
from training.speakers import SPEAKERS

Figures = dict[str, float | None]


def by_voice(rows: list[Row], figure: Callable[[list[Row]], float | None]) -> Figures:
    """A figure of each voice, and of all rows together."""
    voices = {row.voice: None for row in rows}
    return {
        **{voice: figure([row for row in rows if row.voice == voice]) for voice in voices},
        "overall": figure(rows),
    }


def error_rate(rows: list[Row], kind: str, listener: str = "pocketsphinx") -> float | None:
    """Word error rate by one listener; silence counts as every word missed. None if this kind was not made at all."""
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
    """Why the codes of `recipe` cannot be spoken by `codec`; None if they can."""
    if not (recipe / "codes" / "coder.pt").exists():
        return f"{recipe} holds no codes/coder.pt: name the folder given to `python -m training --out`"
    made = codebook_size(len(codes.load(recipe)[0].fine.centres))
    spoken = read_config(codec).codes
    return None if made == spoken else f"the recipe makes {made} codes, {codec} speaks {spoken}"
