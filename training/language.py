"""codes/ → language.pt: a Llama trained to continue text with codes.

Runs on CPU or CUDA; can stop and resume at any step.

Three measures: attention is guided to the letter being spoken (without that the text is hardly used for the first
thousand steps); a phoneme is predicted from a middle layer; and in the later part, long stretches of the input are the
model's own output, so that one slip does not lead to the next. The learning rate falls to zero at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from orpheus.vocabulary import SLOTS
from training import gguf_file, turns
from training.batches import Batch, ahead, batches, collate
from training.files import save_checkpoint
from training.llama import HEAD_SIZE, Llama, Shape
from training.optimize import finite_step
from training.samples import Sample

VALIDATION_TURNS = 64
VALIDATION_STEPS = 500
WHOLE_SHARE = 8  # one position in so many is judged over the whole vocabulary
STRETCH = 4 * SLOTS  # tokens of a stretch of the model's own: a third of a second
SAID_AT = 0.7  # temperature of the model's own codes


@dataclass(frozen=True)
class LanguagePlan:
    shape: Shape
    steps: int = 40000  # of the whole schedule; or, with minutes, whatever fits in them
    minutes: float = 0.0
    batch_tokens: int = 6000
    rate: float = 1.5e-3
    warm_steps: int = 200
    fall: float = 0.35  # share of the schedule over which the rate falls to nothing
    weight_decay: float = 0.05
    corrupt: float = 0.05  # share of code inputs replaced by any other
    own: float = 1.2  # share of a turn that is its own words; drawn turn by turn from 0 to this
    rounds: int = 3  # times its own words are said anew after its own words, at most; drawn batch by batch
    own_from: float = 0.6  # share of the schedule after which it hears itself; before, it says nothing of use
    again: float = 0.2  # share of these stretches that are what was said a little before instead
    whole: float = 0.3  # weight of the loss over all tokens
    guide: float = 1.0  # weight of the attention guide
    phone: float = 0.5  # weight of the phoneme read-out
    level: float = 5e-3  # weight of the logits' level
    window: float = 3.0  # letters either side that the guided head may look at for nothing
    save_minutes: float = 3.0
    stop_minutes: float = 0.0  # end here although the plan goes on; 0: never
    origin: Path | None = None  # a GGUF to go on from instead of from nothing


def going_on(plan: LanguagePlan, origin: Path) -> LanguagePlan:
    """`plan` for a trained model: scheduled sampling from the start, and a fifth of the learning rate, which falls throughout.

    A GGUF does not hold the phoneme read-out, so nothing is asked of it.
    """
    return replace(
        plan,
        origin=origin,
        shape=gguf_file.read(origin).shape,
        rate=plan.rate / 5,
        warm_steps=50,
        fall=1.0,
        own_from=0.0,
        phone=0.0,
        weight_decay=0.0,
    )


def slots_and_codes(ids: Tensor, codes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of token ids: whether each is a code, and if so its slot and its code in it."""
    position = ids - turns.FIRST_CODE_ID
    return (position >= 0) & (position < SLOTS * codes), position // codes, position % codes


def corrupt(ids: Tensor, codes: int, share: float) -> Tensor:
    """Replace a share of the codes by another of the same slot; the speaker part of a coarse code stays."""
    is_code, slot, code = slots_and_codes(ids, codes)
    melodies = codes // 8
    wrong = torch.randint_like(ids, codes)
    wrong = torch.where(slot == 0, code // melodies * melodies + wrong % melodies, wrong)
    hit = is_code & (torch.rand(ids.shape, device=ids.device) < share)
    return torch.where(hit, turns.FIRST_CODE_ID + slot * codes + wrong, ids)


@torch.no_grad()
def own_words(model: Llama, ids: Tensor, plan: LanguagePlan) -> Tensor:
    """`ids` (b, t) with stretches of codes replaced: by what the model says there, or by what was said before.

    Scheduled sampling in parallel passes (Mihaylova and Martins 2019): what it says after the truth, then what it says
    after that, and so on. A model that learned from the truth alone is as clear as the codec where it goes on from the
    truth; where it goes on from its own it makes twice the mistakes: it slips, and then goes on from the slip. One pass
    shows it the slips alone, each further one what it says after them.
    """
    codes = plan.shape.codes
    is_code, slots, _ = slots_and_codes(ids, codes)
    chances = torch.rand(len(ids), 1, device=ids.device) * plan.own
    stretches = torch.rand(len(ids), ids.shape[1] // STRETCH + 2, device=ids.device)
    late = int(torch.randint(STRETCH, ()))
    stretches = stretches.repeat_interleave(STRETCH, dim=1)[:, late : late + ids.shape[1]] / chances
    back = SLOTS * int(torch.randint(2, 12, ()))
    before = ids.roll(back, dims=1)
    said = torch.where((stretches < plan.again) & is_code & is_code.roll(back, dims=1), before, ids)
    rows = model.rows()
    ours = is_code & (stretches >= plan.again) & (stretches < 1)
    for _ in range(int(torch.randint(plan.rounds, ())) + 1):
        hidden, _, _ = model(said)
        for slot in range(SLOTS):
            here = ours & (slots == slot)
            first = turns.FIRST_CODE_ID + slot * codes
            legal = rows[first : first + codes].to(hidden.dtype)
            logits = (hidden[:, :-1][here[:, 1:]] @ legal.T).float() / SAID_AT
            said[here] = first + (logits - torch.empty_like(logits).exponential_().log()).argmax(dim=1)
    return said


def attention_miss(guided: list[tuple[Tensor, Tensor]], batch: Batch, window: float) -> Tensor:
    """How much of the guided heads' gaze on the text falls away from the letter of the next code, 0 … 1."""
    target = batch.position[:, 1:]  # the position before a code predicts it
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


def legal_logits(model: Llama, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Codes and ends (n,) and the states (n, width) they follow → slot by slot: which of the n stand in it, their logits over
    what is legal there, and the position of the right one among these."""
    codes, stop = model.shape.codes, turns.CONTROL_ID[2]
    rows = model.rows().to(hidden.dtype)
    slots = (targets - turns.FIRST_CODE_ID).div(codes, rounding_mode="floor")
    slots = torch.where(targets == stop, 0, slots)
    for slot in range(SLOTS):
        here = slots == slot
        first = turns.FIRST_CODE_ID + slot * codes
        legal, wanted = rows[first : first + codes], targets[here] - first
        if slot == 0:  # speech may also end
            legal, wanted = (
                torch.cat([legal, rows[stop, None]]),
                wanted.masked_fill(targets[here] == stop, codes),
            )
        yield here, (hidden[here] @ legal.T).float(), wanted


def legal_entropy(model: Llama, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of codes and ends (n,) given states (n, width), among what is legal in their slot: mean cross entropy in nats,
    and mean square of the logits' level.

    At level 0 a logit is a log probability (PaLM's z-loss). A repetition penalty divides what is above 0: at a level of
    20 one of 1.1 takes two nats from the likeliest code, and a word in thirty is lost to it; at 0 next to nothing.
    """
    total, level = hidden.new_zeros(2, dtype=torch.float32)
    for _, logits, wanted in legal_logits(model, hidden, targets):
        total = total + F.cross_entropy(logits, wanted, reduction="sum")
        level = level + logits.logsumexp(dim=1).square().sum()
    count = max(len(targets), 1)
    return total / count, level / count


class Losses(NamedTuple):
    """In nats: cross entropy among a slot's legal tokens, and among all; attention miss 0 … 1; phoneme cross entropy;
    square of the level of the logits."""

    told: Tensor
    whole: Tensor
    missed: Tensor
    phoneme: Tensor
    level: Tensor

    def total(self, plan: LanguagePlan) -> Tensor:
        weights = (1.0, plan.whole, plan.guide, plan.phone, plan.level)
        return torch.stack([weight * loss for weight, loss in zip(weights, self, strict=True)]).sum()

    def __str__(self) -> str:
        return " ".join(f"{name} {loss:.3f}" for name, loss in self._asdict().items())


def losses(model: Llama, batch: Batch, plan: LanguagePlan, heard: Tensor) -> Losses:
    """What is wrong with what the model would say.

    `heard` (b, t) is what the model is given, `batch` what it should say next.
    Over all tokens only a share of the positions is judged: that code follows code is soon learned, and a seventh
    of the output matrix is all that the rest needs.
    """
    hidden, phone_logits, guided = model(heard)
    hidden, targets = hidden[:, :-1], batch.ids[:, 1:]
    chosen = batch.weight[:, 1:] > 0
    spoken = chosen & ((targets >= turns.FIRST_CODE_ID) | (targets == turns.CONTROL_ID[2]))
    share = torch.arange(targets.shape[1], device=targets.device) % WHOLE_SHARE == len(targets) % WHOLE_SHARE
    judged = chosen & (share | ~spoken)
    whole = F.cross_entropy((hidden[judged] @ model.rows().to(hidden.dtype).T).float(), targets[judged])
    phones = batch.phone[:, 1:]
    named = F.cross_entropy(phone_logits[:, :-1][phones >= 0].float(), phones[phones >= 0])
    told, level = legal_entropy(model, hidden[spoken], targets[spoken])
    return Losses(told, whole, attention_miss(guided, batch, plan.window), named, level)


def begin(shape: Shape, out: Path) -> Llama:
    """A new model in which codes that sound alike start alike: their rows are the coder's centres, turned at random."""
    model = Llama(shape)
    state = torch.load(out / "codes" / "coder.pt", map_location="cpu")
    melodies = state["melodies"].float()
    speakers = torch.eye(shape.codes // len(melodies)).repeat_interleave(len(melodies), dim=0)
    coarse = torch.cat(
        [2 * speakers, (melodies / melodies.std()).repeat(shape.codes // len(melodies), 1)], dim=1
    )
    with torch.no_grad():
        centres = (coarse, state["coder"]["middle.centres"], state["coder"]["fine.centres"])
        for rows, meant in zip(model.levels, centres, strict=True):
            spread = meant - meant.mean(dim=0)
            turned = spread @ torch.randn(spread.shape[1], shape.width)
            rows.mul_(0.3).add_(turned, alpha=0.018 / float(turned.std()))
    return model


def rate_at(progress: float, step: int, plan: LanguagePlan) -> float:
    """Learning rate: a short climb, a plain, a straight fall."""
    return plan.rate * min(1.0, (step + 1) / plan.warm_steps, max((1 - progress) / plan.fall, 0.0))


def train(out: Path, samples: list[Sample], plan: LanguagePlan, seed: int) -> Path:
    """Train until the plan is done; `out`/language.pt is its state at any moment and its result at the end."""
    target = out / "language.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = (gguf_file.read(plan.origin) if plan.origin else begin(plan.shape, out)).to(device)
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
        step = state["step"]
        progress = state["progress"] if plan.minutes else step / plan.steps  # so that a longer plan goes on
        torch.manual_seed(seed + step)
    taught = [one for one in samples if not one.test]
    held_out = [
        turns.turn(one, plan.shape.codes, Random(one.number), vary=False) for one in samples if one.test
    ]
    check = collate(held_out[:VALIDATION_TURNS], device)
    precise = torch.autocast(device, dtype=torch.bfloat16)

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        save_checkpoint(target, {**state, "progress": progress, "shape": asdict(plan.shape), "seed": seed})

    began = saved = last = time.monotonic()
    seen = skipped = 0
    for batch in ahead(batches(taught, plan.shape.codes, plan.batch_tokens, seed, step), device):
        if progress >= 1 or (plan.stop_minutes and time.monotonic() - began > plan.stop_minutes * 60):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, step, plan)
        model.train()
        with precise:
            heard = own_words(model, batch.ids, plan) if progress >= plan.own_from else batch.ids
            heard = corrupt(heard, plan.shape.codes, plan.corrupt)
            loss = losses(model, batch, plan, heard)
        optimizer.zero_grad(set_to_none=True)
        loss.total(plan).backward()
        skipped += not finite_step(optimizer, 1.0)
        step += 1
        now = time.monotonic()
        progress = progress + (now - last) / 60 / plan.minutes if plan.minutes else step / plan.steps
        last = now
        seen += batch.ids.numel()
        if step % 50 == 0 or progress >= 1:
            print(f"language step {step} ({progress:.1%}): {loss}", end=", ")
            print(f"{seen / (now - began):.0f} tokens/s, {skipped} skipped as not finite", flush=True)
        if now - saved > plan.save_minutes * 60:
            save()
            saved = time.monotonic()
        if step % VALIDATION_STEPS == 0:
            print("  held out:", validate(model, check, plan, precise), flush=True)
    save()
    print("  held out:", validate(model, check, plan, precise), flush=True)
    return target


@torch.no_grad()
def validate(model: Llama, check: Batch, plan: LanguagePlan, precise: torch.autocast) -> str:
    """The losses on unseen sentences, continuing the true codes and its own."""
    model.eval()
    with precise, torch.random.fork_rng():
        torch.manual_seed(0)
        own = own_words(model, check.ids, plan)
        true, slipped = losses(model, check, plan, check.ids), losses(model, check, plan, own)
    return f"{true}; from its own words: {slipped}"


def load(path: Path) -> Llama:
    """The model of a checkpoint, ready to read."""
    state = torch.load(path, map_location="cpu")
    model = Llama(Shape(**{**state["shape"], "guided": tuple(state["shape"]["guided"])}))
    model.load_state_dict(state["model"])
    return model.eval()
