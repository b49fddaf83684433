"""features/ and a finished voice → codes/coder.pt: the voice's coder, if its own is lost.

Nothing that speaks needs a coder, so a voice ships without one; training it further on its teacher, or listening to its
codec alone, does. The codec's codebooks started as the coder's centres and have hardly moved (`codec.begin`). The
networks around the centres are trained anew: what a code means, from what the codec renders for the voice's own codes;
which code to choose, from those and from the teacher's speech.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from snac import SNAC
from torch import Tensor
from torch.nn import functional as F

from orpheus import embedded
from training import codes, likeness, texts, voiced_waves
from training.clock import FRAME_SAMPLES, HOP_SAMPLES
from training.coder import Codebook, Coder, Recovery, Size
from training.features import Sentence
from training.files import save_arrays, save_checkpoint
from training.optimize import finite_step
from training.reader import TEMPERATURE, TOP_P, opened
from training.samples import codes_a_slot, without_speaker
from training.speakers import SPEAKERS

SENTENCES_PER_SHARD = 24
LONGEST_TOKENS = 700  # eight seconds
LEARNING = torch.autocast("cpu", dtype=torch.bfloat16)


@dataclass(frozen=True)
class Corpus:
    """Sentences one after another, to cut crops from: features (latents, 66); their codes where these are known."""

    features: np.ndarray
    middle: np.ndarray
    fine: np.ndarray

    def draw(self, plan: Recovery, draw: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Features (b, 66, t), middle codes (b, t / 2), fine codes (b, t)."""
        first = draw.integers((len(self.features) - plan.latents) // 2 + 1, size=plan.batch) * 2
        at = first[:, None] + np.arange(plan.latents)
        halves = at[:, ::2] // 2
        found = self.features[at].transpose(0, 2, 1), self.middle[halves], self.fine[at]
        return tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in found)  # type: ignore[return-value]


def corpus(sentences: list[Sentence], frames: list[np.ndarray]) -> Corpus:
    """`frames` are the codes of `sentences`, (n, 7) each; where they are unknown, of any value.

    Either side is measured from its own mean: the codec's bands lie a little off the teacher's, which is not for a code to tell.
    """
    mean = codes.mean_bands(sentences)
    told = np.concatenate(frames).astype(np.int64)
    return Corpus(
        np.concatenate([codes.latent_features(one, mean) for one in sentences]),
        told[:, [1, 4]].reshape(-1),
        told[:, [2, 3, 5, 6]].reshape(-1),
    )


def centres(snac: SNAC, dim: int) -> tuple[Tensor, Tensor]:
    """Of the middle and the fine codes, (codes, dim) each, from the codebooks' two halves."""
    middle, fine = (
        one.codebook.weight.detach()[:, :dim].unflatten(0, (2, -1)).mean(dim=0)
        for one in snac.quantizer.quantizers[1:]
    )
    return middle, fine


def melodies(snac: SNAC) -> np.ndarray:
    """(codes / 8, 4) log pitch ratios: the mean of what the rows of every speaker tell; coarse codes have the first half."""
    rows = snac.quantizer.quantizers[0].codebook.weight.detach().numpy()
    by_speaker = rows[: len(rows) // 2].reshape(len(SPEAKERS), -1, rows.shape[1])
    told = [voiced_waves.melodies_told(by_speaker[n], speaker) for n, speaker in enumerate(SPEAKERS)]
    mean: np.ndarray = np.mean(told, axis=0)
    return mean


def say(out: Path, model: Path, snac: Path, count: int) -> tuple[list[Sentence], list[np.ndarray]]:
    """What the codec makes of `count` sentences in the voice's own codes, and these codes."""
    lines = [line["text"] for line in texts.read(out) if not line["test"]][:count]
    names = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        waited = []
        for first in range(0, len(lines), SENTENCES_PER_SHARD):
            names.append(out / "recover" / f"{first // SENTENCES_PER_SHARD:05d}.npz")
            if not names[-1].exists():
                part = lines[first : first + SENTENCES_PER_SHARD]
                waited.append(pool.submit(_say_shard, names[-1], model, snac, part))
        for one in track(waited, "recover"):
            one.result()
    sentences, frames = [], []
    for name in names:
        with np.load(name) as stored:
            ends = np.cumsum(stored["lengths"])[:-1]
            hops = ends * (FRAME_SAMPLES // HOP_SAMPLES)
            frames += np.split(stored["frames"], ends)
            heard = [np.split(stored[key].astype(np.float32), hops) for key in ("bands", "voiced", "melody")]
        sentences += [Sentence({}, *one) for one in zip(*heard, strict=True)]
    return sentences, frames


def _say_shard(target: Path, model: Path, snac: Path, said: list[str]) -> None:
    torch.set_num_threads(1)  # a shard has a core to itself
    network = _snac(snac)
    size = codes_a_slot(network.codebook_size)
    frames, heard = [], []
    for number, text in enumerate(said):
        speaker = number % len(SPEAKERS)
        placed, _ = opened(model, size).frames(
            text, SPEAKERS[speaker].name, TEMPERATURE, TOP_P, number, LONGEST_TOKENS
        )
        if len(placed):
            frames.append(without_speaker(placed % size, size))
            heard.append(likeness.described(network, frames[-1]))
    bands, voiced, melody = map(np.concatenate, zip(*heard, strict=True))
    save_arrays(
        target,
        lengths=np.array([len(one) for one in frames], np.int32),
        frames=np.concatenate(frames).astype(np.uint16),
        bands=bands.astype(np.float16),
        voiced=voiced.astype(np.uint8),
        melody=melody.astype(np.float16),
    )


@cache
def _snac(folder: Path) -> SNAC:
    return SNAC.from_pretrained(str(folder)).eval()


def learn(coder: Coder, known: Corpus, teacher: Corpus, plan: Recovery, seed: int) -> None:
    """Fit the networks around the coder's centres, which stay where they are."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    coder.eval()

    def meaning() -> Tensor:
        heard, middle, fine = known.draw(plan, draw)
        with LEARNING:
            rebuilt = coder.rebuild(middle, fine)
        return codes.error(rebuilt.float(), heard)

    def choosing() -> Tensor:
        heard, middle, fine = known.draw(plan, draw)
        taught, _, _ = teacher.draw(plan, draw)
        with LEARNING:
            missed = surprise(coder, heard, middle, fine, sharpness.exp())
            rebuilt, _, _, distance = coder(taught)
        return 0.1 * missed + 3 * codes.error(rebuilt.float(), taught) + 0.25 * distance.float()

    sharpness = torch.nn.Parameter(torch.zeros(2))
    after = (coder.from_middle, coder.from_fine, coder.decoder)
    before = (coder.encoder, coder.to_middle, coder.to_fine)
    fit(
        [one for part in after for one in part.parameters()],
        meaning,
        plan.meaning_steps,
        plan.rate,
        "meaning",
    )
    coder.requires_grad_(False)
    for part in before:
        part.requires_grad_(True)
    fit(
        [sharpness, *(one for part in before for one in part.parameters())],
        choosing,
        plan.choosing_steps,
        plan.rate,
        "choosing",
    )


def fit(
    weights: list[torch.nn.Parameter], loss_of: Callable[[], Tensor], steps: int, rate: float, name: str
) -> None:
    """Take `steps` steps down `loss_of`, and say how far it came."""
    optimizer = torch.optim.AdamW(weights, rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    losses = []
    for step in track(range(steps), name):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        finite_step(optimizer, 1.0)
        schedule.step()
        losses.append(loss.item())
        if step % 500 == 499 or step + 1 == steps:
            print(f"{name} step {step + 1}: loss {np.mean(losses[-500:]):.4f}", flush=True)


def surprise(coder: Coder, heard: Tensor, middle: Tensor, fine: Tensor, sharpness: Tensor) -> Tensor:
    """Cross entropy in nats of the known codes, with likelihoods from the distances to the centres by `sharpness` (2,)."""
    hidden = coder.encoder(heard)
    coarse = coder.from_middle(coder.middle.centres[middle].transpose(1, 2))
    latents = coder.to_middle(hidden), coder.to_fine(torch.cat([hidden, coarse], dim=1))
    parts = zip(latents, (coder.middle, coder.fine), (middle, fine), sharpness, strict=True)
    return torch.stack([_entropy(latent, book, said, sharp) for latent, book, said, sharp in parts]).sum()


def _entropy(latent: Tensor, book: Codebook, said: Tensor, sharpness: Tensor) -> Tensor:
    nearness = latent.float().transpose(1, 2) @ book.centres.T - book.centres.square().sum(dim=1) / 2
    return F.cross_entropy((sharpness * nearness).transpose(1, 2), said)


def make(out: Path, size: Size, plan: Recovery, seed: int) -> Path:
    """Recover the coder of the voice in `out`, or of the embedded voice if there is none; its codec is then copied there."""
    target = out / "codes" / "coder.pt"
    if target.exists():
        return target
    taught = codes.learned_from(out, size)
    if not taught:
        raise SystemExit(f"{out}/features is empty: run the stages up to `--stage features` first.")
    model, snac = out / "model.gguf", out / "snac"
    if not model.exists():
        model = embedded.MODEL
        shutil.copytree(embedded.CODEC, snac, dirs_exist_ok=True)
        print("No model.gguf: this is the coder of the embedded voice.", flush=True)
    network = _snac(snac)
    heard, frames = say(out, model, snac, plan.sentences)
    codes_here = codes_a_slot(network.codebook_size)
    coder = Coder(2 * codes.SHAPES + 2, codes_here, size.width, size.dim)
    coder.middle.centres, coder.fine.centres = centres(network, size.dim)
    unknown = [np.zeros((len(one.bands) // 8, 7), np.int64) for one in taught]
    learn(coder, corpus(heard, frames), corpus(taught, unknown), plan, seed)
    save_checkpoint(
        target,
        {
            "size": {**size.__dict__, "codes": codes_here},
            "coder": coder.state_dict(),
            "mean": torch.from_numpy(codes.mean_bands(taught)),
            "melodies": torch.from_numpy(melodies(network)),
        },
    )
    return target
