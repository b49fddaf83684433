"""codes/ → language.pt: a Llama that goes on from text to codes. Runs on CPU or CUDA; stops and goes on at any step.

Knows nothing of audio. What each measure is for: attention is shown the letter being spoken (without it the text is
hardly used for the first thousand steps), a phoneme is read out half-way up, a share of the codes fed in is wrong
(what the model hears of itself is too), and the rate falls to nothing at the end.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orpheus.vocabulary import SLOTS
from training import turns
from training.files import save_checkpoint
from training.llama import HEAD_SIZE, Llama, Shape
from training.samples import Sample
from training.turns import Turn

VALIDATION_TURNS = 64


@dataclass(frozen=True)
class Plan:
    shape: Shape
    steps: int = 40000  # of the whole schedule; or, with minutes, whatever fits in them
    minutes: float = 0.0
    batch_tokens: int = 6000
    rate: float = 1.5e-3
    warm_steps: int = 200
    fall: float = 0.35  # share of the schedule over which the rate falls to nothing
    weight_decay: float = 0.05
    corrupt: float = 0.15  # share of code inputs replaced
    guide: float = 1.0  # weight of the attention guide
    phone: float = 0.2  # weight of the phoneme read-out
    window: float = 3.0  # letters either side that the guided head may look at for nothing
    save_minutes: float = 3.0
    stop_minutes: float = 0.0  # end here although the plan goes on; 0: never


@dataclass(frozen=True)
class Batch:
    """Padded turns. ids, weight, place, phone (b, t); text_start, text_end (b,)."""

    ids: Tensor
    weight: Tensor
    place: Tensor
    phone: Tensor
    text_start: Tensor
    text_end: Tensor


def collate(batch: list[Turn], device: str) -> Batch:
    """Pad to the longest; a padded position has no weight, and no real position sees it."""
    length = math.ceil(max(len(one.ids) for one in batch) / 32) * 32

    def pad(rows: list[np.ndarray], value: float) -> Tensor:
        out = np.full((len(rows), length), value, rows[0].dtype)
        for place, row in enumerate(rows):
            out[place, : len(row)] = row
        return torch.from_numpy(out).to(device, non_blocking=True)

    return Batch(
        ids=pad([one.ids for one in batch], turns.CONTROL_ID[7]),
        weight=pad([one.weight for one in batch], 0),
        place=pad([one.place for one in batch], turns.NO_PLACE),
        phone=pad([one.phone for one in batch], -1),
        text_start=torch.tensor([one.text_start for one in batch], device=device),
        text_end=torch.tensor([one.text_end for one in batch], device=device),
    )


def batches(samples: list[Sample], codes: int, tokens: int, seed: int, first: int) -> Iterator[list[Turn]]:
    """Endless batches of turns of like length from batch number `first`; the same seed gives the same ones."""
    number = 0
    epoch = 0
    while True:
        draw = Random(f"{seed} {epoch}")
        # Like lengths together, yet in another order every epoch.
        order = sorted(range(len(samples)), key=lambda one: len(samples[one].frames) * draw.uniform(0.9, 1.1))
        groups: list[list[int]] = [[]]
        for one in order:
            longest = len(samples[one].frames) * SLOTS + len(samples[one].text) + 16
            if groups[-1] and longest * (len(groups[-1]) + 1) > tokens * 1.15:
                groups.append([])
            groups[-1].append(one)
        draw.shuffle(groups)
        for group in groups:
            if number >= first:
                picker = Random(f"{seed} {epoch} {number}")
                yield [turns.turn(samples[one], codes, picker) for one in group]
            number += 1
        epoch += 1


def ahead(source: Iterator[list[Turn]], device: str) -> Iterator[Batch]:
    """Collate in a thread, a few batches ahead: a GPU is done with a batch before Python has made the next."""
    made: queue.Queue[Batch | Exception] = queue.Queue(maxsize=4)

    def fill() -> None:
        try:
            for one in source:
                made.put(collate(one, device))
        except Exception as error:
            made.put(error)  # raised where the batch is waited for

    threading.Thread(target=fill, daemon=True).start()
    while True:
        batch = made.get()
        if isinstance(batch, Exception):
            raise batch
        yield batch


def corrupt(ids: Tensor, codes: int, share: float) -> Tensor:
    """Replace a share of the codes by another of the same slot; the speaker part of a coarse code stays."""
    place = ids - turns.FIRST_CODE_ID
    is_code = (place >= 0) & (place < SLOTS * codes)
    slot, code = place // codes, place % codes
    melodies = codes // 8
    wrong = torch.randint_like(ids, codes)
    wrong = torch.where(slot == 0, code // melodies * melodies + wrong % melodies, wrong)
    hit = is_code & (torch.rand(ids.shape, device=ids.device) < share)
    return torch.where(hit, turns.FIRST_CODE_ID + slot * codes + wrong, ids)


def attention_miss(guided: list[tuple[Tensor, Tensor]], batch: Batch, window: float) -> Tensor:
    """How much of the guided heads' gaze on the text falls away from the letter of the next code, 0 … 1."""
    target = batch.place[:, 1:]  # the position before a code predicts it
    spoken = (target >= 0).float()
    longest = int(batch.text_end.max())
    letters = torch.arange(longest, device=target.device)
    outside = (letters < batch.text_start[:, None]) | (letters >= batch.text_end[:, None])
    away = 1 - torch.exp(-(((letters - target[..., None]) / window) ** 2) / 2)
    missed = []
    for query, key in guided:
        scores = query[:, :-1].float() @ key[:, :longest].float().transpose(1, 2) / HEAD_SIZE**0.5
        gaze = scores.masked_fill(outside[:, None], -1e4).softmax(dim=-1)
        missed.append(((gaze * away).sum(dim=-1) * spoken).sum() / spoken.sum().clamp_min(1))
    return torch.stack(missed).mean()


def losses(model: Llama, batch: Batch, plan: Plan, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(cross entropy a token in nats, attention miss, phoneme cross entropy)."""
    codes = plan.shape.codes
    inputs = corrupt(batch.ids, codes, plan.corrupt) if training else batch.ids
    hidden, phone_logits, guided = model(inputs)
    chosen = batch.weight[:, 1:] > 0
    logits = hidden[:, :-1][chosen] @ model.rows().to(hidden.dtype).T
    told = F.cross_entropy(logits.float(), batch.ids[:, 1:][chosen])
    phones = batch.phone[:, 1:]
    heard = F.cross_entropy(phone_logits[:, :-1][phones >= 0].float(), phones[phones >= 0])
    return told, attention_miss(guided, batch, plan.window), heard


def rate_at(progress: float, step: int, plan: Plan) -> float:
    """Learning rate: a short climb, a plain, a straight fall."""
    return plan.rate * min(1.0, (step + 1) / plan.warm_steps, max((1 - progress) / plan.fall, 0.0))


def train(out: Path, samples: list[Sample], plan: Plan, seed: int) -> Path:
    """Train until the plan is done; `out`/language.pt is its state at any moment and its result at the end."""
    target = out / "language.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = Llama(plan.shape).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": plan.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0},
        ],
        lr=plan.rate, betas=(0.9, 0.97), fused=device == "cuda",
    )  # fmt: skip
    step, progress = 0, 0.0
    if target.exists():
        state = torch.load(target, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, progress = state["step"], state["progress"]
        torch.manual_seed(seed + step)
    taught = [one for one in samples if not one.test]
    held_out = [
        turns.turn(one, plan.shape.codes, Random(one.number), vary=False) for one in samples if one.test
    ]
    check = collate(sorted(held_out, key=lambda one: len(one.ids))[:VALIDATION_TURNS], device)
    precise = torch.autocast(device, dtype=torch.bfloat16)

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        save_checkpoint(target, {**state, "progress": progress, "shape": asdict(plan.shape), "seed": seed})

    began = saved = last = time.monotonic()
    seen = 0
    sums = np.zeros(3)
    for batch in ahead(batches(taught, plan.shape.codes, plan.batch_tokens, seed, step), device):
        if progress >= 1 or (plan.stop_minutes and time.monotonic() - began > plan.stop_minutes * 60):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, step, plan)
        model.train()
        with precise:
            told, missed, heard = losses(model, batch, plan, training=True)
        optimizer.zero_grad(set_to_none=True)
        (told + plan.guide * missed + plan.phone * heard).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        now = time.monotonic()
        progress = progress + (now - last) / 60 / plan.minutes if plan.minutes else step / plan.steps
        last = now
        seen += batch.ids.numel()
        if step % 50 == 0 or progress >= 1:
            sums = np.array([told.item(), missed.item(), heard.item()])
            print(
                f"language step {step} ({progress:.1%}): told {sums[0]:.3f} missed {sums[1]:.3f} heard {sums[2]:.3f}, "
                f"{seen / (now - began):.0f} tokens/s",
                flush=True,
            )
        if now - saved > plan.save_minutes * 60:
            save()
            saved = time.monotonic()
            print("  held out:", validate(model, check, plan, precise), flush=True)
    save()
    print("  held out:", validate(model, check, plan, precise), flush=True)
    return target


@torch.no_grad()
def validate(model: Llama, check: Batch, plan: Plan, precise: torch.autocast) -> str:
    """The three losses on unseen sentences, nothing corrupted or dropped."""
    model.eval()
    with precise:
        told, missed, heard = losses(model, check, plan, training=False)
    return f"told {told:.3f} missed {missed:.3f} heard {heard:.3f}"


def load(path: Path) -> Llama:
    """The model of a checkpoint, ready to read."""
    state = torch.load(path, map_location="cpu")
    model = Llama(Shape(**{**state["shape"], "guided": tuple(state["shape"]["guided"])}))
    model.load_state_dict(state["model"])
    return model.eval()
