"""A GGUF and a text → codes, by llama.cpp, as the service samples them: legal codes of the slot only.

Knows nothing of audio.
"""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np

from orpheus.vocabulary import SLOTS
from training import turns
from training.samples import in_codebooks

LONGEST_TOKENS = 1400


class Reader:
    """llama.cpp over one GGUF, one stream."""

    def __init__(self, model: Path, codes: int, threads: int = 1) -> None:
        self._codes = codes  # a slot
        self._llama = llama_cpp.Llama(
            str(model),
            n_ctx=2048,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
            logits_all=False,
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
        llama = self._llama
        llama.reset()
        llama.eval(turns.prompt(text, voice))
        said: list[int] = []
        ended = False
        while len(said) < longest_tokens:
            slot = len(said) % SLOTS
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), (llama.n_vocab(),))
            first = turns.FIRST_CODE_ID + slot * self._codes
            legal = logits[first : first + self._codes].astype(np.float64)
            if slot == 0:
                legal = np.append(legal, logits[turns.CONTROL_ID[2]])
            pick = sample(legal, temperature, top_p, draw)
            ended = pick == self._codes
            if ended:
                break
            said.append(pick)
            llama.eval([first + pick])
        return in_codebooks(np.array(said, int).reshape(-1, SLOTS), self._codes), ended


def sample(logits: np.ndarray, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """One index by temperature and top-p; the likeliest at temperature 0."""
    if temperature <= 0:
        return int(logits.argmax())
    share = np.exp((logits - logits.max()) / temperature)
    share /= share.sum()
    order = np.argsort(-share)
    kept = order[: int(np.searchsorted(np.cumsum(share[order]), top_p)) + 1]
    return int(draw.choice(kept, p=share[kept] / share[kept].sum()))
