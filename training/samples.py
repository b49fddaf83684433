"""codes/*.npz → sentences as codes, with everything that the training stages need to know about them.

The teacher is not needed: a folder of these files can be copied elsewhere and trained on there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.clock import LATENTS
from training.files import save_arrays
from training.speakers import SPEAKERS

SECOND = [3, 4, 6]  # slots of the second of a pair: half a frame, or half of that


@dataclass(frozen=True)
class Sample:
    """One sentence: frames (n, 7) without a speaker; the letter and the phoneme of each of its 4n latents."""

    number: int
    text: str
    rate: int
    test: bool
    frames: np.ndarray
    positions: np.ndarray
    phones: np.ndarray


def as_speaker(frames: np.ndarray, speaker: int, codes: int) -> np.ndarray:
    """The same frames said by speaker number `speaker`: only the coarse code changes."""
    spoken = frames.astype(np.int64)
    spoken[:, 0] += speaker * (codes // len(SPEAKERS))
    return spoken


def without_speaker(frames: np.ndarray, codes: int) -> np.ndarray:
    """The way back of `as_speaker`, whoever says them."""
    mute = frames.copy()
    mute[:, 0] %= codes // len(SPEAKERS)
    return mute


def codebook_size(codes: int) -> int:
    """Of the codec, for so many codes a slot."""
    return 2 * codes


def codes_a_slot(size: int) -> int:
    """Of the language model, for a codec of this codebook size."""
    return size // 2


def in_codebooks(frames: np.ndarray, codes: int) -> np.ndarray:
    """The codes of the tokens themselves: those of the second of a pair are in the second half of the codebook,
    which tells the codec where in its frame it is."""
    placed = frames.astype(np.int64)
    placed[:, SECOND] += codes
    return placed


def said_by(speaker: int, frames: np.ndarray, codes: int) -> np.ndarray:
    """What the codec is given so that speaker number `speaker` says these frames."""
    return in_codebooks(as_speaker(frames, speaker, codes), codes)


def write(target: Path, samples: list[Sample]) -> None:
    """All of `samples` in one file."""
    save_arrays(
        target,
        numbers=np.array([one.number for one in samples], np.int32),
        texts=np.frombuffer("\n".join(one.text for one in samples).encode(), np.uint8),
        rates=np.array([one.rate for one in samples], np.uint8),
        tests=np.array([one.test for one in samples], bool),
        lengths=np.array([len(one.frames) for one in samples], np.int32),
        frames=np.concatenate([one.frames for one in samples]),
        positions=np.concatenate([one.positions for one in samples]),
        phones=np.concatenate([one.phones for one in samples]),
    )


def read(folder: Path) -> list[Sample]:
    """The samples of every file of `folder`, in order."""
    samples = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as stored:
            part = {name: stored[name] for name in stored.files}
        texts = part["texts"].tobytes().decode().split("\n")
        ends = np.cumsum(part["lengths"])
        for position, (end, length) in enumerate(zip(ends, part["lengths"], strict=True)):
            latents = slice((end - length) * LATENTS, end * LATENTS)
            samples.append(
                Sample(
                    number=int(part["numbers"][position]),
                    text=texts[position],
                    rate=int(part["rates"][position]),
                    test=bool(part["tests"][position]),
                    frames=part["frames"][end - length : end],
                    positions=part["positions"][latents],
                    phones=part["phones"][latents],
                )
            )
    return samples
