"""features/ → codes/NNNNN.npz: each sentence as frames of seven codes, without its speaker.

The coarse code is a melody of 85 ms (its speaker is added when one is chosen); middle and fine codes are the envelope
and voicing, the same for all speakers, who differ only in the coarse code. So a sentence spoken once teaches the
language model all eight voices, and no voice can drift into another.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from training import features, samples
from training.alignment import position_and_phone
from training.bands import BANDS
from training.clock import LATENTS
from training.coder import Coder, Size
from training.features import Sentence
from training.files import save_checkpoint
from training.samples import Sample

SHAPES = 32  # cosines kept of the 80 bands
_SCALE = 3.0  # nepers; brings the bands near unit variance
_VOICED_WEIGHT = 0.3  # of voicing against a band


@cache
def shape_basis() -> np.ndarray:
    """(80, 32) cosines over the bands, weighted by what a listener needs: formants most, fine ripple least."""
    order = np.arange(SHAPES)
    basis = np.cos(np.pi * order * (np.arange(BANDS)[:, None] + 0.5) / BANDS) * np.sqrt(2 / BANDS)
    weights = np.where(order <= 18, 1.0, np.maximum(0.3, 1 - (order - 18) / 20))
    weights[0] = 0.5  # loudness
    return basis * weights


def shapes(bands: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Bands (n, 80) → (n, 32), each cosine by its weight."""
    shaped: np.ndarray = (bands - mean) / _SCALE @ shape_basis()
    return shaped


def latent_features(sentence: Sentence, mean: np.ndarray) -> np.ndarray:
    """(latents, 66): two frames of the envelope's shape, two of voicing."""
    shaped = shapes(sentence.bands, mean).reshape(-1, 2 * SHAPES)
    return np.concatenate([shaped, sentence.voiced.reshape(-1, 2)], axis=1).astype(np.float32)


def melody_vectors(sentence: Sentence) -> tuple[np.ndarray, np.ndarray]:
    """(frames, 4) log pitch ratio of each latent, and (frames,) how much of the frame is voiced."""
    melody = sentence.melody.reshape(-1, LATENTS, 2).mean(axis=2)
    return melody, sentence.voiced.reshape(len(melody), -1).mean(axis=1)


def melody_centres(sentences: list[Sentence], count: int, seed: int) -> np.ndarray:
    """(count, 4) by Lloyd's k-means over voiced frames, sorted by mean pitch."""
    vectors, weights = map(np.concatenate, zip(*map(melody_vectors, sentences), strict=True))
    vectors = vectors[weights > 0.3]
    draw = np.random.default_rng(seed)
    vectors = vectors[draw.permutation(len(vectors))[:20000]]
    centres = vectors[np.argsort(vectors.mean(axis=1))[np.linspace(0, len(vectors) - 1, count).astype(int)]]
    for _ in range(25):
        nearest = ((vectors[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        for one in range(count):
            if (nearest == one).any():
                centres[one] = vectors[nearest == one].mean(axis=0)
    return centres[np.argsort(centres.mean(axis=1))]


def learned_from(out: Path, size: Size) -> list[Sentence]:
    """The teacher's sentences that a coder learns from: those of the first shards."""
    return [one for name in features.shards(out)[: size.shards] for one in features.read(out, name)]


def mean_bands(sentences: list[Sentence]) -> np.ndarray:
    """(80,) over all their frames."""
    mean: np.ndarray = np.concatenate([one.bands for one in sentences]).mean(axis=0)
    return mean


def error(rebuilt: Tensor, features: Tensor) -> Tensor:
    """Mean square of the difference of two (b, 66, t), weighed by what a listener needs."""
    weights = torch.ones(features.shape[1], 1, device=features.device)
    weights[2 * SHAPES :] = _VOICED_WEIGHT * SHAPES
    # Speech is what must be right: a quiet frame counts a quarter of a loud one.
    loud = torch.sigmoid(features[:, :1] / 2) * 0.75 + 0.25
    return ((rebuilt - features) ** 2 * weights * loud).mean()


def train(out: Path, size: Size, seed: int) -> Path:
    """Train the coder on the first shards; codes/coder.pt holds it, the mean bands and the melody centres."""
    target, unfinished = out / "codes" / "coder.pt", out / "codes" / "coder_unfinished.pt"
    if target.exists():
        return target
    torch.manual_seed(seed)
    sentences = learned_from(out, size)
    mean = mean_bands(sentences)
    stream = torch.from_numpy(np.concatenate([latent_features(one, mean) for one in sentences]).T.copy())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    coder = Coder(stream.shape[0], size.codes, size.width, size.dim).to(device)
    optimizer = torch.optim.AdamW(coder.parameters(), lr=2e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=size.steps, pct_start=0.05)
    errors = []
    first = 0
    if unfinished.exists():
        state = torch.load(unfinished, map_location=device)
        coder.load_state_dict(state["coder"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    for step in track(range(first, size.steps), "coder"):
        torch.manual_seed(seed * 1_000_003 + step)  # stopped and gone on or not, a step sees the same crops
        starts = torch.randint(stream.shape[1] - size.latents, (size.batch,)) // 2 * 2
        batch = torch.stack([stream[:, at : at + size.latents] for at in starts.tolist()]).to(device)
        rebuilt, _, _, distance = coder(batch)
        missed = error(rebuilt, batch)
        loss = missed + 0.25 * distance
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        errors.append(missed.item())
        if step % 250 == 249:
            parts: dict[str, Any] = {"coder": coder, "optimizer": optimizer, "schedule": schedule}
            save_checkpoint(
                unfinished, {**{name: part.state_dict() for name, part in parts.items()}, "step": step + 1}
            )
        if step % 100 == 99:
            print(f"coder step {step + 1}: error {np.mean(errors[-100:]):.4f}", flush=True)
    state = {
        "size": size.__dict__,
        "coder": {name: value.cpu() for name, value in coder.state_dict().items()},
        "mean": torch.from_numpy(mean),
        "melodies": torch.from_numpy(melody_centres(sentences, size.melodies, seed)),
        "error": float(np.mean(errors[-100:])),
    }
    save_checkpoint(target, state)
    unfinished.unlink(missing_ok=True)
    return target


def load(out: Path) -> tuple[Coder, np.ndarray, np.ndarray]:
    """(coder, mean bands (80,), melody centres (m, 4))."""
    state = torch.load(out / "codes" / "coder.pt", map_location="cpu")
    size = Size(**state["size"])
    coder = Coder(2 * SHAPES + 2, size.codes, size.width, size.dim)
    coder.load_state_dict(state["coder"])
    return coder.eval(), state["mean"].numpy(), state["melodies"].numpy()


@torch.inference_mode()
def encode(sentence: Sentence, coder: Coder, mean: np.ndarray, melodies: np.ndarray) -> np.ndarray:
    """(frames, 7) codes in slot order; slot 0 holds the melody alone, as if of the first speaker."""
    _, middle, fine, _ = coder(torch.from_numpy(latent_features(sentence, mean).T[None].copy()))
    vectors, _ = melody_vectors(sentence)
    coarse = ((vectors[:, None] - melodies) ** 2).sum(axis=2).argmin(axis=1)
    frames = np.empty((len(coarse), 7), np.uint16)
    frames[:, 0] = coarse
    frames[:, [1, 4]] = middle.numpy().reshape(-1, 2)
    frames[:, [2, 3, 5, 6]] = fine.numpy().reshape(-1, 4)
    return frames


def make(out: Path, size: Size, seed: int) -> None:
    """Train the coder once, then encode every described shard not encoded yet."""
    train(out, size, seed)
    coder, mean, melodies = load(out)
    for name in track(features.shards(out), "codes"):
        target = out / "codes" / f"{name}.npz"
        if target.exists():
            continue
        sentences = features.read(out, name)
        samples.write(
            target,
            [
                Sample(one.line["id"], one.line["text"], one.line["rate"], one.line["test"], said, *aligned)
                for one in sentences
                for said in [encode(one, coder, mean, melodies)]
                for aligned in [position_and_phone(one.line, LATENTS * len(said))]
            ],
        )
