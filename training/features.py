"""speech/ → features/NNNNN.npz: per sentence the envelope in 80 bands, voicing and melody that the codes must carry.

These are the teacher's own; the timing is shared by every speaker.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from training import shift, speech
from training.bands import mel_weights
from training.clock import TEACHER_HZ
from training.files import save_arrays

_FLOOR = -15.0  # natural log of the quietest band power kept
_STEPS = 12  # stored steps a neper


@dataclass(frozen=True)
class Sentence:
    """One sentence at hop 256: bands (n, 80) log power; voiced (n,) 0 … 1; melody (n,) log pitch ratio."""

    line: dict[str, Any]
    bands: np.ndarray
    voiced: np.ndarray
    melody: np.ndarray


def describe(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bands, voiced, melody) of the teacher's int16 samples."""
    return described(*shift.pitch_and_envelope(shift.prepare(samples, TEACHER_HZ)))


def described(f0: np.ndarray, envelope: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bands, voiced, melody) of the teacher's pitch and envelope."""
    # A smooth envelope instead of a spectrum: harmonics would spend codes on a pitch the first code carries.
    power = envelope @ mel_weights(envelope.shape[1])
    count = len(f0) - 1
    bands = np.maximum(np.log(power + 1e-12), _FLOOR)[:count]
    return bands, (f0 > 0)[:count].astype(np.float32), shift.melody(f0)[:count]


def make(out: Path) -> None:
    """Describe every whole shard of speech that is not described yet."""
    for shard in track(speech.shards(out), "features"):
        target = out / "features" / f"{shard.name}.npz"
        if target.exists():
            continue
        described = [(line, *describe(samples)) for line, samples in speech.read(shard)]
        save_arrays(
            target,
            ids=np.array([line["id"] for line, *_ in described], np.int32),
            lengths=np.array([len(bands) for _, bands, *_ in described], np.int32),
            # A twelfth of a neper (0.4 dB) is far below what codes keep; a byte is a quarter of a float.
            bands=np.concatenate([np.round((one[1] - _FLOOR) * _STEPS) for one in described])
            .clip(0, 255)
            .astype(np.uint8),
            voiced=np.concatenate([one[2] for one in described]).astype(np.uint8),
            melody=np.concatenate([one[3] for one in described]).astype(np.float16),
        )


def read(out: Path, name: str) -> list[Sentence]:
    """The sentences of one shard, with their lines."""
    stored = np.load(out / "features" / f"{name}.npz")
    lines = {line["id"]: line for line in speech.read_lines(out / "speech" / name)}
    sentences, start = [], 0
    bands = stored["bands"].astype(np.float32) / _STEPS + _FLOOR
    voiced, melody = stored["voiced"].astype(np.float32), stored["melody"].astype(np.float32)
    for number, length in zip(stored["ids"], stored["lengths"], strict=True):
        part = slice(start, start + length)
        sentences.append(Sentence(lines[int(number)], bands[part], voiced[part], melody[part]))
        start += length
    return sentences


def shards(out: Path) -> list[str]:
    """Names of the described shards, in order."""
    return [path.stem for path in sorted((out / "features").glob("*.npz"))]
