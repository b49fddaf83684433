"""Logits → one token per sequence, drawn from the tokens that are legal there, for all sequences at once.

A draw depends on its sequence's logits, settings, history, seed and step alone, never on the rest of the batch.

Order of the filters: repetition penalty, temperature, top_k, top_p, min_p (llama.cpp's order, vLLM's penalty).
Nothing is sorted. A token is drawn from the whole distribution and kept if it lies in the nucleus, that is if
the tokens above it weigh less than top_p; otherwise it and all below it are struck out and the draw is repeated,
which is exact and needs 1/top_p draws or fewer (FlashInfer's rejection sampling). Tokens that tie at a bound
of top_k or top_p are all kept.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class _Settings:
    """Of the sequences in `rows` (n,), looked up once for as long as the same are drawn together."""

    rows: Ints
    every: Ints  # 0 … n-1
    first_slot: Ints
    penalised: Ints  # which of the n have a repetition penalty,
    penalised_rows: Ints
    penalty: Floats  # and theirs
    drawn: Ints | None  # which of the n are not greedy; None for all. What follows is theirs:
    inverse_temperature: Floats  # (drawn, 1)
    keys: NDArray[np.uint64]
    top_k: list[tuple[int, Ints]]  # each that is asked for, and by which of those drawn
    top_p: NDArray[np.float64]
    min_p: Floats | None  # (drawn, 1); None if nobody has one


class Sampler:
    """Settings and history of up to `rows` sequences, kept as arrays so that a draw is a handful of NumPy calls."""

    def __init__(self, vocabulary: Vocabulary, rows: int, history_frames: int = REPETITION_FRAMES) -> None:
        self._spans = [(ids.start, ids.stop) for ids in vocabulary.code_ids]
        self._codes = vocabulary.codes
        self._end = vocabulary.codes  # the column of end-of-speech, after the codes
        self._end_id = vocabulary.end_of_speech
        self._width = _padded(vocabulary.codes + 2)  # one column more, never legal, for an empty history
        self._frames = history_frames
        # Of a step, kept between steps: fresh memory would cost a page fault for every 4 KB.
        self._work = np.full((rows, self._width), _OFF, np.float32)
        self._spare = np.empty_like(self._work)
        self._mask = np.empty(self._work.shape, bool)
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
        self._last: _Settings | None = None

    def open(self, row: int, sampling: Sampling, *, constrained: bool = True, first_slot: int = 0) -> None:
        """Begin a sequence in `row`. `sampling.seed` must be set; `first_slot` is the slot of its first token."""
        assert sampling.seed is not None
        self._last = None
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
        work[:, self._codes :] = _OFF
        spans, codes = self._spans, self._codes
        slots = self._slots(self._settings(rows))
        for n, (logit_row, slot) in enumerate(zip(logit_rows.tolist(), slots.tolist(), strict=True)):
            start, stop = spans[slot]
            work[n, :codes] = logits[logit_row, start:stop]
            if slot == 0:
                work[n, self._end] = logits[logit_row, self._end_id]
        return work

    def draw(self, work: Floats, rows: Ints) -> Ints:
        """Columns (n,) drawn from what `gather` returned, which is overwritten; `codes` stands for end-of-speech."""
        settings = self._settings(rows)
        slots = self._slots(settings)
        if settings.penalised.size:
            history = self._history[settings.penalised_rows, slots[settings.penalised]]
            _penalise(work, settings.penalised, history, settings.penalty)
        steps = self._step[rows]
        chosen = self._choose(work, settings, steps)
        self._history[rows, slots, steps // SLOTS % self._frames] = chosen
        self._step[rows] = steps + 1
        return chosen

    def draw_any(self, logits: Floats, row: int) -> int:
        """An id drawn from the whole vocabulary, for an unconstrained sequence; `logits` is (vocabulary,)."""
        work = np.full((1, _padded(len(logits) + 1)), _OFF, np.float32)
        work[0, : len(logits)] = logits
        rows = np.array([row], np.int64)
        history = self._history[row].reshape(1, -1)  # the last tokens, whatever their slot
        settings = self._settings(rows)
        if settings.penalised.size:
            _penalise(work, settings.penalised, history, settings.penalty)
        chosen = int(self._choose(work, settings, self._step[rows])[0])
        history[0, self._step[row] % history.shape[1]] = chosen
        self._step[row] += 1
        return chosen

    def _settings(self, rows: Ints) -> _Settings:
        """Those of `rows`, an array that nobody changes: known by its identity."""
        if self._last is not None and self._last.rows is rows:
            return self._last
        penalised = np.flatnonzero(self._penalty[rows] != 1)
        greedy = self._greedy[rows]
        drawn = np.flatnonzero(~greedy)
        drawn_rows = rows[drawn]
        min_p, top_k = self._min_p[drawn_rows], self._top_k[drawn_rows]
        self._last = _Settings(
            rows=rows,
            every=np.arange(len(rows)),
            first_slot=self._first_slot[rows],
            penalised=penalised,
            penalised_rows=rows[penalised],
            penalty=self._penalty[rows[penalised]],
            drawn=drawn if greedy.any() else None,
            inverse_temperature=self._inverse_temperature[drawn_rows][:, None],
            keys=_mix(self._key[drawn_rows] + _GOLDEN),
            top_k=[(k, np.flatnonzero(top_k == k)) for k in np.unique(top_k).tolist() if k],
            top_p=self._top_p[drawn_rows],
            min_p=min_p[:, None] if min_p.any() else None,
        )
        return self._last

    def _slots(self, settings: _Settings) -> Ints:
        slots: Ints = (settings.first_slot + self._step[settings.rows]) % SLOTS
        return slots

    def _choose(self, work: Floats, settings: _Settings, steps: Ints) -> Ints:
        best: Ints = work.argmax(axis=1)
        greatest = work[settings.every, best]
        if not np.isfinite(greatest).all():
            raise EngineError("The model's output is not a number: the weights or the GPU are faulty.")
        drawn = settings.drawn
        if drawn is not None:
            if not drawn.size:
                return best
            work, greatest, steps = work[drawn], greatest[drawn], steps[drawn]
        np.subtract(work, greatest[:, None], out=work)
        np.multiply(work, settings.inverse_temperature, out=work)
        weights = np.exp(work, out=work)  # the greatest is 1
        for k, asking in settings.top_k:
            if k < weights.shape[1]:
                whole = weights[asking]
                weights[asking] = whole * (whole >= np.partition(whole, -k, axis=1)[:, -k, None])
        chosen = self._reject_until_kept(weights, settings, steps)
        if drawn is None:
            return chosen
        best[drawn] = chosen
        return best

    def _reject_until_kept(self, weights: Floats, settings: _Settings, steps: Ints) -> Ints:
        """Columns (n,) drawn in proportion to `weights` (n, width; the greatest of a row is 1) within top_p and min_p."""
        top_p, keys = settings.top_p, settings.keys
        sums = _block_sums(weights)
        limits = top_p * sums.sum(axis=1)
        limits[top_p >= 1] = np.inf
        left = weights
        if settings.min_p is not None:
            left = weights * (weights >= settings.min_p)
            sums = _block_sums(left)
        chosen = np.zeros(len(weights), np.int64)
        pending = np.arange(len(weights))
        attempt = 0
        while True:
            columns = _pick(left, sums, _numbers(keys, steps, attempt))
            picked = weights[np.arange(len(weights)), columns][:, None]
            mask, above = self._buffers(weights)
            np.multiply(weights, np.greater(weights, picked, out=mask), out=above)
            kept = _block_sums(above).sum(axis=1) < limits
            if kept.all():
                chosen[pending] = columns
                return chosen
            again = ~kept
            chosen[pending[kept]] = columns[kept]
            pending, keys, steps, limits = pending[again], keys[again], steps[again], limits[again]
            left = left[again]
            left *= left > picked[again]
            weights, sums = weights[again], _block_sums(left)
            attempt += 1

    def _buffers(self, weights: Floats) -> tuple[NDArray[np.bool_], Floats]:
        rows, width = weights.shape
        if width != self._width:  # the whole vocabulary
            return np.empty(weights.shape, bool), np.empty_like(weights)
        return self._mask[:rows], self._spare[:rows]


def uniform(keys: NDArray[np.uint64], steps: Ints, attempt: int) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1), each a function of its key (the seed), step and attempt alone.

    SplitMix64 (Steele et al. 2014) used as a counter-based generator: any step of any seed can be computed directly,
    so sequences need no generator objects and no order.
    """
    return _numbers(_mix(keys + _GOLDEN), steps, attempt)


def _numbers(mixed_keys: NDArray[np.uint64], steps: Ints, attempt: int) -> NDArray[np.float64]:
    bits = mixed_keys + (steps.astype(np.uint64) * np.uint64(1024) + np.uint64(attempt)) * _GOLDEN
    return (_mix(bits) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _block_sums(weights: Floats) -> Floats:
    """(n, blocks) of `weights` (n, width)."""
    sums: Floats = np.add.reduce(weights.reshape(len(weights), -1, BLOCK), axis=2)
    return sums


def _pick(weights: Floats, sums: Floats, numbers: NDArray[np.float64]) -> Ints:
    """Columns (n,) of `weights` (n, width) with the block sums `sums`, in proportion to them, at `numbers` in [0, 1)."""
    rows = np.arange(len(weights))
    below = np.zeros((len(sums), sums.shape[1] + 1))  # the weight of all blocks before each
    ends = below[:, 1:]
    sums.cumsum(axis=1, dtype=np.float64, out=ends)
    targets = numbers * ends[:, -1]
    ends[:, -1] = np.inf  # rounding must not point past the last
    block = (ends > targets[:, None]).argmax(axis=1)
    targets -= below[rows, block]
    inside = weights.reshape(len(weights), -1, BLOCK)[rows, block].cumsum(axis=1, dtype=np.float64)
    inside[:, -1] = np.inf
    columns: Ints = block * BLOCK + (inside > targets[:, None]).argmax(axis=1)
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
