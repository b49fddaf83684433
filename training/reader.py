"""A GGUF and a text → codes, by llama.cpp, sampled as the service does: only legal codes of the slot that is due."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from orpheus.llama.backend import Context, ContextOptions, Model
from orpheus.llama.batches import BatchRow
from orpheus.sampling import Sampling
from orpheus.vocabulary import SLOTS
from training import turns
from training.samples import in_codebooks

TEMPERATURE, TOP_P = Sampling.temperature, Sampling.top_p  # as the service samples
LONGEST_TOKENS = 1400
CONTEXT_TOKENS = 2048


class Reader:
    """llama.cpp over one GGUF, one stream."""

    def __init__(self, model: Path, codes: int, threads: int = 1) -> None:
        self._codes = codes  # a slot
        self._context = Context(
            Model(model, 0), ContextOptions(1, CONTEXT_TOKENS, CONTEXT_TOKENS, 1, threads)
        )

    def frames(
        self,
        text: str,
        voice: str,
        temperature: float,
        top_p: float,
        seed: int,
        longest_tokens: int = LONGEST_TOKENS,
    ) -> tuple[np.ndarray, bool]:
        """((n, 7) codes of the codebooks, whether it ended by itself)."""
        draw = np.random.default_rng(seed)
        self._context.free(0)
        prompt = turns.prompt(text, voice)
        self._context.decode([BatchRow(0, 0, tuple(prompt), True)])
        said: list[int] = []
        ended = False
        while len(said) < longest_tokens:
            slot = len(said) % SLOTS
            (logits,) = self._context.logits(1)
            first = turns.FIRST_CODE_ID + slot * self._codes
            legal = logits[first : first + self._codes].astype(np.float64)
            if slot == 0:
                legal = np.append(legal, logits[turns.CONTROL_ID[2]])
            pick = sample(legal, temperature, top_p, draw)
            ended = pick == self._codes
            if ended:
                break
            self._context.decode([BatchRow(0, len(prompt) + len(said), (first + pick,), True)])
            said.append(pick)
        return in_codebooks(np.array(said, int).reshape(-1, SLOTS), self._codes), ended


@cache
def opened(model: Path, codes: int) -> Reader:
    """The one reader a process has of a file, for `codes` a slot."""
    return Reader(model, codes)


def sample(logits: np.ndarray, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """One index by temperature and top-p; the likeliest at temperature 0."""
    if temperature <= 0:
        return int(logits.argmax())
    share = np.exp((logits - logits.max()) / temperature)
    share /= share.sum()
    order = np.argsort(-share)
    kept = order[: int(np.searchsorted(np.cumsum(share[order]), top_p)) + 1]
    return int(draw.choice(kept, p=share[kept] / share[kept].sum()))
