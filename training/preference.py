"""language.pt, snac/ and texts.jsonl → preferred.pt: the language model, trained on what recognizers understood.

Without a language.pt it continues from the embedded voice, which needs no teacher. Runs on the CPU, since making the
tries takes four fifths of the time.

The loss of the next code weighs a slip that loses a word no more than a slightly brighter vowel. Here the model speaks
each sentence several times, and of any two tries the one that was understood better, and is closer to the teacher's
rendition if that is known (likeness.py), is made likelier than the other (Rafailov and others 2023), as a whole and word
by word: a word shows better than its sentence which codes were to blame.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orpheus import embedded
from orpheus.vocabulary import SLOTS
from training import gguf_file, language, turns
from training.files import save_checkpoint
from training.llama import Llama
from training.optimize import finite_step

if TYPE_CHECKING:
    from training.tries import Tries, Try

HELD_OUT = 12  # one sentence in so many is not learned from
UNDERSTOOD = 0.5  # a try with more words wrong than this is no example
# How much pocketsphinx and the distance from the teacher are believed against Whisper's certainty.
FIRST_LISTENER, LIKENESS = 0.7, 0.5
# Of all tokens only one state in so many is asked: no factor in common with the slots, so that all have their turn.
WHOLE_SHARE = 6
PAD = turns.CONTROL_ID[7]
PRECISION = torch.autocast("cpu", dtype=torch.bfloat16)

Before = dict[
    int, list[Tensor]
]  # by the id of a sentence's tries: of each the log likelihood (t,) of its codes


@dataclass(frozen=True)
class PreferencePlan:
    rounds: int = 2  # each says other sentences with what the one before it learned
    sentences: int = 1272  # a round
    tries: int = 4  # a sentence
    learners: int = 2
    passes: float = 1.0  # over a round's tries: what is seen twice is learned by heart
    batch_tokens: int = 16000
    rate: float = 1.5e-4
    warm_steps: int = 10
    steepness: float = 0.1  # how soon a difference in likelihood is enough: DPO's beta
    example: float = 0.2  # weight of the plain loss on the best try
    level: float = 5e-3  # weight of the logits' level, as in the language stage
    illegal: float = 5.0  # weight of what tokens of other slots take
    lead: int = 1  # frames before a word that answer for it too


@dataclass(frozen=True)
class Likelihoods:
    """`codes`: of each try of each sentence the log likelihood (t,) of its codes and its end, among what is legal there.

    `level`: the mean square of the logits' level. `illegal`: what tokens of other slots take from the legal ones, in
    nats a token: our tier 1 never draws them, other engines would.
    """

    codes: list[list[Tensor]]
    level: Tensor
    illegal: Tensor


def likelihoods(model: Llama, batch: list[Tries]) -> Likelihoods:
    """The model's likelihoods of every try of every sentence."""
    prompts = [turns.prompt(one.text, one.voice) for said in batch for one in said]
    spoken = [
        np.append(turns.spoken_ids(one.frames, model.shape.codes), turns.CONTROL_ID[2])
        for said in batch
        for one in said
    ]
    length = max(len(prompt) + len(codes) for prompt, codes in zip(prompts, spoken, strict=True))
    ids = np.full((len(spoken), -(-length // 32) * 32), PAD)
    for row, prompt, codes in zip(ids, prompts, spoken, strict=True):
        row[: len(prompt) + len(codes)] = [*prompt, *codes]
    hidden, _, _ = model(torch.from_numpy(ids))
    rows = range(len(spoken))
    states = torch.cat([hidden[n, len(prompts[n]) - 1 :][: len(spoken[n])] for n in rows])
    targets = torch.from_numpy(np.concatenate(spoken))
    found, level = torch.zeros(len(targets)), torch.zeros(len(targets))
    for here, logits, wanted in language.legal_logits(model, states, targets):
        norm = logits.logsumexp(dim=1)
        found = found.masked_scatter(here, logits.gather(1, wanted[:, None])[:, 0] - norm)
        level = level.masked_scatter(here, norm)
    share = slice(None, None, WHOLE_SHARE)
    whole = (states[share] @ model.rows().to(states.dtype).T).float().logsumexp(dim=1)
    parts = iter(found.split([len(codes) for codes in spoken]))
    return Likelihoods(
        [[next(parts) for _ in said] for said in batch], level.square().mean(), (whole - level[share]).mean()
    )


class PreferenceLoss:
    """Pairs of one kind: how far the better is from likelier than the worse, weighed by how much better it is."""

    def __init__(self, steepness: float) -> None:
        self._steepness = steepness
        self._loss, self._weight, self._right = torch.zeros(()), 0.0, 0.0

    def add(self, gains: list[Tensor], worths: list[float], least: float) -> None:
        """`gains`: log likelihoods gained since the round began; `worths`: how good each is, near enough alike within `least`."""
        for gain, worth in zip(gains, worths, strict=True):
            for other, less in zip(gains, worths, strict=True):
                if worth - less > least:
                    ahead = gain - other
                    self._loss = self._loss + (worth - less) * F.softplus(-self._steepness * ahead)
                    self._weight += worth - less
                    self._right += (worth - less) * float(ahead > 0)

    @property
    def loss(self) -> Tensor:
        return self._loss / max(self._weight, 1e-6)

    @property
    def right(self) -> float:
        """The share of pairs, by weight, whose better try became likelier against the other."""
        return self._right / max(self._weight, 1e-6)


def compare(
    model: Llama, batch: list[Tries], before: Before, plan: PreferencePlan
) -> tuple[Tensor, PreferenceLoss, PreferenceLoss]:
    """(loss, verdict on whole tries, verdict on words); `before` has the likelihoods at the round's beginning."""
    with PRECISION:
        now = likelihoods(model, batch)
    whole, words = PreferenceLoss(plan.steepness), PreferenceLoss(plan.steepness)
    example, examples = torch.zeros(()), 0
    for said, after in zip(batch, now.codes, strict=True):
        gained = [one - two for one, two in zip(after, before[id(said)], strict=True)]
        alike = all(one.compared for one in said)  # else only what was heard can be compared
        worths = [_worth(one, alike) for one in said]
        whole.add([one.sum() for one in gained], worths, 0.1)
        best = int(np.argmax(worths))
        if said[best].ended and said[best].wrong < UNDERSTOOD:
            example, examples = example - after[best].sum(), examples + len(after[best])
        placed = [(one, gain) for one, gain in zip(said, gained, strict=True) if one.spans.any()]
        for number in range(len(said[0].right)):
            words.add(
                [_of_word(one, number, gain, plan.lead).sum() for one, gain in placed],
                [_worth_of_word(one, number, alike, plan.lead) for one, _ in placed],
                0.5,
            )
    loss = whole.loss + words.loss + plan.example * example / max(examples, 1)
    loss = loss + plan.level * now.level + plan.illegal * now.illegal
    return loss, whole, words


def _worth(one: Try, alike: bool) -> float:
    """How good a try is: how well it was understood and, if `alike`, how like the teacher it is."""
    heard = float(one.sure.mean()) - FIRST_LISTENER * min(one.wrong, 1.2)
    return heard - LIKENESS * float(one.away.mean()) if alike else heard


def _worth_of_word(one: Try, number: int, alike: bool, lead: int) -> float:
    """The same of one word."""
    heard = float(one.sure[number]) + FIRST_LISTENER * float(one.right[number])
    return heard - LIKENESS * float(one.away[_frames_of(one, number, lead)].mean()) if alike else heard


def _of_word(one: Try, number: int, codes: Tensor, lead: int) -> Tensor:
    """What there is for the codes of one word, and for those of `lead` frames before it."""
    frames = _frames_of(one, number, lead)
    return codes[frames.start * SLOTS : frames.stop * SLOTS]


def _frames_of(one: Try, number: int, lead: int) -> slice:
    first, end = one.spans[number]
    return slice(max(0, first - lead), end)


def batches(said: list[Tries], tokens: int, draw: Random) -> list[list[Tries]]:
    """Sentences of like length together, in another order for every `draw`."""

    def longest(one: Tries) -> int:
        return max(SLOTS * len(a_try.frames) + len(a_try.text) + 16 for a_try in one)

    groups: list[list[Tries]] = [[]]
    for one in sorted(said, key=lambda one: longest(one) * draw.uniform(0.9, 1.1)):
        if groups[-1] and longest(one) * len(one) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(one)
    draw.shuffle(groups)
    return groups


def learn(model: Llama, said: list[Tries], plan: PreferencePlan, seed: int) -> Llama:
    """The mean of `model` and of what `plan.learners` learned from what it said, each in an order of its own.

    What a learner got by heart is its own, what also holds of other sentences they share: the mean keeps the latter
    (Wortsman and others 2022).
    """
    order = Random(seed).sample(said, len(said))
    held_out, taught = order[: len(said) // HELD_OUT], order[len(said) // HELD_OUT :]
    before: dict[int, list[Tensor]] = {}
    with torch.no_grad(), PRECISION:
        for group in batches(said, plan.batch_tokens, Random(seed)):
            found = likelihoods(model.eval(), group).codes
            before |= {id(one): of_it for one, of_it in zip(group, found, strict=True)}
    learners = [_learner(model, taught, before, plan, seed + 1000 * n) for n in range(plan.learners)]
    mean = copy.deepcopy(model)
    everyone = [one.state_dict() for one in (model, *learners)]
    mean.load_state_dict(
        {name: torch.stack([one[name] for one in everyone]).mean(dim=0) for name in everyone[0]}
    )
    with torch.no_grad():
        groups = batches(held_out, plan.batch_tokens, Random(seed)) if held_out else []
        judged = [compare(mean, group, before, plan)[1:] for group in groups]
    shares = [(whole.right, words.right) for whole, words in judged] or [(np.nan, np.nan)]
    print("  held out: tries {:.2f}, words {:.2f} the right way".format(*np.mean(shares, axis=0)), flush=True)
    return mean


def _learner(model: Llama, taught: list[Tries], before: Before, plan: PreferencePlan, seed: int) -> Llama:
    """A copy of `model` after `plan.passes` over `taught`."""
    torch.manual_seed(seed)
    draw = Random(seed)
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=(0.9, 0.97), weight_decay=0.0)
    steps = max(1, round(plan.passes * len(batches(taught, plan.batch_tokens, Random(seed)))))
    step = skipped = 0
    while step < steps:
        for group in batches(taught, plan.batch_tokens, draw)[: steps - step]:
            for part in optimizer.param_groups:
                part["lr"] = plan.rate * min(1.0, (step + 1) / plan.warm_steps, max(1 - step / steps, 0.05))
            optimizer.zero_grad(set_to_none=True)
            loss, whole, words = compare(model, group, before, plan)
            loss.backward()
            skipped += not finite_step(optimizer, 1.0)
            step += 1
            if step % 10 == 0 or step == steps:
                print(
                    f"preference step {step} of {steps}: loss {loss:.3f}, tries {whole.right:.2f},", end=" "
                )
                print(f"words {words.right:.2f} the right way, {skipped} skipped as not finite", flush=True)
    return model


def train(out: Path, plan: PreferencePlan, seed: int) -> Path:
    """Every round that is not done yet; `out`/preferred.pt holds the model after the last one."""
    from training import tries  # llama.cpp and the listener, without which the other stages do

    target = out / "preferred.pt"
    learned, codec, done = out / "language.pt", out / "snac", 0
    if learned.exists():
        model = language.load(learned)
    else:
        model, codec = gguf_file.read(embedded.MODEL), embedded.CODEC
        print("No language.pt: going on from the embedded voice.", flush=True)
    if target.exists():
        done, model = torch.load(target, map_location="cpu")["rounds"], language.load(target)
    for number in range(done, plan.rounds):
        texts = tries.sentences(out, number * plan.sentences, plan.sentences)
        if not texts:
            raise SystemExit(f"{out}/texts.jsonl has no sentence left for round {number}: give it fewer.")
        said = tries.make(out, model, codec, number, texts, plan.tries)
        wrong, sure = np.mean([(one.wrong, one.sure.mean()) for some in said for one in some], axis=0)
        print(f"preference round {number}: {wrong:.3f} of the words mistaken by pocketsphinx,", end=" ")
        print(f"{np.exp(sure):.3f} the mean certainty of a word by Whisper", flush=True)
        model = learn(model, said, plan, seed + number)
        save_checkpoint(
            target, {"model": model.state_dict(), "shape": asdict(model.shape), "rounds": number + 1}
        )
    return target
