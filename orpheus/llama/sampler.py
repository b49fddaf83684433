"""Logits → one token per sequence, drawn from the tokens that are legal there, for all sequences at once.

A draw depends on its sequence's logits, settings, history, seed and step alone, never on the rest of the batch.

Order of the filters: repetition penalty, temperature, top_k, top_p, min_p (llama.cpp's order, vLLM's penalty).
Nothing is sorted. A token is drawn from the whole distribution and kept if it lies in the nucleus, that is if
the tokens above it weigh less than top_p; otherwise it and all below it are struck out and the draw is repeated,
which is exact and needs 1/top_p draws or fewer (FlashInfer's rejection sampling). Tokens that tie at a bound
of top_k or top_p are all kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import EngineError
from orpheus.sampling import REPETITION_FRAMES, Sampling
from orpheus.vocabulary import SLOTS, Vocabulary

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 64  # a draw finds its block by block sums first: a running sum over a whole row would cost three times more
_OFF = np.float32(-np.inf)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Sampler:
    """Settings and history of up to `rows` sequences, kept as arrays so that a draw is a handful of NumPy calls."""

    def __init__(self, vocabulary: Vocabulary, rows: int, history_frames: int = REPETITION_FRAMES) -> None:
        self._vocabulary = vocabulary
        self._starts = [ids.start for ids in vocabulary.code_ids]
        self._codes = vocabulary.codes
        self._end = vocabulary.codes  # the column of end-of-speech, after the codes
        self._width = _padded(vocabulary.codes + 2)  # one column more, never legal, for an empty history
        self._frames = history_frames
        self._work = np.full((rows, self._width), _OFF, np.float32)
        self._history = np.zeros((rows, SLOTS, history_frames), np.int64)
        self._step = np.zeros(rows, np.int64)
        self._first_slot = np.zeros(rows, np.int64)
        self._key = np.zeros(rows, np.uint64)
        self._inverse_temperature = np.ones(rows, np.float32)
        self._greedy = np.zeros(rows, bool)
        self._penalty = np.ones(rows, np.float32)
        self._top_p = np.ones(rows, np.float64)
        self._top_k = np.zeros(rows, np.int64)
        self._min_p = np.zeros(rows, np.float32)

    def open(self, row: int, sampling: Sampling, *, constrained: bool = True, first_slot: int = 0) -> None:
        """Begin a sequence in `row`. `sampling.seed` must be set; `first_slot` is the slot of its first token."""
        assert sampling.seed is not None
        self._step[row] = 0
        self._first_slot[row] = first_slot
        self._key[row] = sampling.seed
        self._greedy[row] = sampling.temperature == 0
        self._inverse_temperature[row] = 1 / max(sampling.temperature, 1e-3)
        self._penalty[row] = sampling.repetition_penalty
        self._top_p[row] = sampling.top_p
        self._top_k[row] = sampling.top_k
        self._min_p[row] = sampling.min_p
        self._history[row] = self._end + 1 if constrained else -1

    def gather(self, logits: Floats, logit_rows: Ints, rows: Ints) -> Floats:
        """Copy the legal logits from `logit_rows` (n,), for the constrained sequences in `rows` (n,).

        Returns (n, width). Column c is the c-th legal code of the slot that is due; then comes end-of-speech, legal
        at slot 0 alone; then padding.
        """
        work = self._work[: len(rows)]
        slots = self._slots(rows)
        starts, codes = self._starts, self._codes
        for n, (logit_row, slot) in enumerate(zip(logit_rows.tolist(), slots.tolist(), strict=True)):
            start = starts[slot]
            work[n, :codes] = logits[logit_row, start : start + codes]
        work[:, codes:] = _OFF
        may_end = np.flatnonzero(slots == 0)
        work[may_end, self._end] = logits[logit_rows[may_end], self._vocabulary.end_of_speech]
        return work

    def draw(self, work: Floats, rows: Ints) -> Ints:
        """Columns (n,) drawn from what `gather` returned, which is overwritten; `codes` stands for end-of-speech."""
        slots = self._slots(rows)
        penalised = np.flatnonzero(self._penalty[rows] != 1)
        if penalised.size:
            history = self._history[rows[penalised], slots[penalised]]
            _penalise(work, penalised, history, self._penalty[rows[penalised]])
        chosen: Ints = self._choose(work, rows)
        self._history[rows, slots, self._step[rows] // SLOTS % self._frames] = chosen
        self._step[rows] += 1
        return chosen

    def draw_any(self, logits: Floats, row: int) -> int:
        """An id drawn from the whole vocabulary, for an unconstrained sequence; `logits` is (vocabulary,)."""
        work = np.full((1, _padded(len(logits) + 1)), _OFF, np.float32)
        work[0, : len(logits)] = logits
        first = np.zeros(1, np.int64)
        history = self._history[row].reshape(1, -1)  # the last tokens, whatever their slot
        if self._penalty[row] != 1:
            _penalise(work, first, history, self._penalty[row : row + 1])
        chosen = int(self._choose(work, first + row)[0])
        history[0, self._step[row] % history.shape[1]] = chosen
        self._step[row] += 1
        return chosen

    def _slots(self, rows: Ints) -> Ints:
        slots: Ints = (self._first_slot[rows] + self._step[rows]) % SLOTS
        return slots

    def _choose(self, work: Floats, rows: Ints) -> Ints:
        best: Ints = work.argmax(axis=1)
        if not np.isfinite(work[np.arange(len(work)), best]).all():
            raise EngineError("The model's output is not a number: the weights or the GPU are faulty.")
        drawn = np.flatnonzero(~self._greedy[rows])
        if not drawn.size:
            return best
        if drawn.size < len(rows):
            work, rows = work[drawn], rows[drawn]
        greatest = work[np.arange(len(work)), best[drawn]]
        np.subtract(work, greatest[:, None], out=work)
        np.multiply(work, self._inverse_temperature[rows][:, None], out=work)
        weights = np.exp(work, out=work)  # the greatest is 1
        for n in np.flatnonzero(self._top_k[rows]).tolist():
            k = int(self._top_k[rows[n]])
            if k < weights.shape[1]:
                bound = np.partition(weights[n], -k)[-k]
                weights[n, weights[n] < bound] = 0
        best[drawn] = _reject_until_kept(
            weights, self._top_p[rows], self._min_p[rows], self._key[rows], self._step[rows]
        )
        return best


def uniform(keys: NDArray[np.uint64], steps: Ints, attempt: int) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1), each a function of its key (the seed), step and attempt alone.

    SplitMix64 (Steele et al. 2014) used as a counter-based generator: any step of any seed can be computed directly,
    so sequences need no generator objects and no order.
    """
    bits = _mix(keys + _GOLDEN) + (steps.astype(np.uint64) * np.uint64(1024) + np.uint64(attempt)) * _GOLDEN
    return (_mix(bits) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _reject_until_kept(
    weights: Floats,
    top_p: NDArray[np.float64],
    min_p: Floats,
    keys: NDArray[np.uint64],
    steps: Ints,
) -> Ints:
    """Columns (n,) drawn in proportion to `weights` (n, width; the greatest of a row is 1) within top_p and min_p."""
    chosen = np.zeros(len(weights), np.int64)
    pending = np.arange(len(weights))
    left = weights
    if min_p.any():
        left = np.where(weights >= min_p[:, None], weights, np.float32(0))
    limits = top_p * weights.reshape(len(weights), -1, BLOCK).sum(axis=2).sum(axis=1)
    limits[top_p >= 1] = np.inf
    attempt = 0
    while True:
        columns = _pick(left, uniform(keys[pending], steps[pending], attempt))
        picked = weights[np.arange(len(weights)), columns][:, None]
        above = (
            np.multiply(weights, weights > picked).reshape(len(weights), -1, BLOCK).sum(axis=2).sum(axis=1)
        )
        kept = above < limits[pending]
        chosen[pending[kept]] = columns[kept]
        if kept.all():
            return chosen
        again = ~kept
        pending, weights = pending[again], weights[again]
        left = np.where(left[again] > picked[again], left[again], np.float32(0))
        attempt += 1


def _pick(weights: Floats, numbers: NDArray[np.float64]) -> Ints:
    """Columns (n,) of `weights` (n, width), in proportion to them, at `numbers` in [0, 1)."""
    rows = np.arange(len(weights))
    blocks = weights.reshape(len(weights), -1, BLOCK)
    running = blocks.sum(axis=2).cumsum(axis=1, dtype=np.float64)
    targets = numbers * running[:, -1]
    block = (running <= targets[:, None]).sum(axis=1)
    block = np.minimum(block, running.shape[1] - 1)
    targets -= np.where(block > 0, running[rows, block - 1], 0)
    inside = (blocks[rows, block].cumsum(axis=1, dtype=np.float64) <= targets[:, None]).sum(axis=1)
    columns: Ints = block * BLOCK + np.minimum(inside, BLOCK - 1)
    # Rounding of the two sums can point one past the last weight; the greatest is then as good as any.
    lost = np.flatnonzero(weights[rows, columns] == 0)
    if lost.size:
        columns[lost] = weights[lost].argmax(axis=1)
    return columns


def _penalise(work: Floats, rows: Ints, history: Ints, penalty: Floats) -> None:
    """Divide positive logits of the tokens in `history` by the penalty and multiply negative ones, each once."""
    rows = rows[:, None]
    repeated = work[rows, history]
    penalty = penalty[:, None]
    work[rows, history] = np.where(repeated > 0, repeated / penalty, repeated * penalty)


def _padded(width: int) -> int:
    return -(-width // BLOCK) * BLOCK
