"""Draws against a plain reference, and the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest

from orpheus.errors import EngineError
from orpheus.llama.sampler import Sampler, uniform
from orpheus.sampling import Sampling
from orpheus.vocabulary import SLOTS, Vocabulary

CODES = 50
ROWS = 8
END = SLOTS * CODES
VOCABULARY = Vocabulary(
    size=END + 3,
    begin_of_text=END + 1,
    end_of_turn=END + 2,
    control={2: END},
    code_ids=tuple(range(slot * CODES, (slot + 1) * CODES) for slot in range(SLOTS)),
)


def sampler(*settings: Sampling, history: int = 4, first_slot: int = 0) -> Sampler:
    made = Sampler(VOCABULARY, ROWS, history)
    for row, sampling in enumerate(settings):
        made.open(row, sampling, first_slot=first_slot)
    return made


def logits(rows: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (rows, VOCABULARY.size)).astype(np.float32)


def draw(made: Sampler, values: np.ndarray, rows: list[int]) -> list[int]:
    at = np.array(rows, np.int64)
    tokens: list[int] = made.draw(made.gather(values, np.arange(len(rows)), at), at).tolist()
    return tokens


def reference(values: np.ndarray, sampling: Sampling, repeated: set[int] = frozenset()) -> np.ndarray:  # type: ignore[assignment]
    """Probabilities by the book: penalty, temperature, top_k, top_p, min_p, each by sorting."""
    values = values.astype(np.float64).copy()
    for token in repeated:
        values[token] *= 1 / sampling.repetition_penalty if values[token] > 0 else sampling.repetition_penalty
    p = np.exp((values - values.max()) / sampling.temperature)
    order = np.argsort(-p, kind="stable")
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    keep = order[before < sampling.top_p]
    kept = np.zeros_like(p)
    kept[keep] = p[keep]
    kept[kept < sampling.min_p * kept.max()] = 0
    return kept / kept.sum()


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1e-300},
        {"top_k": 2**31 - 1},
        {"min_p": 1},
        {"repetition_penalty": 0.1},
        {"repetition_penalty": 10},
        {"seed": 2**64 - 1},
    ],
)
def test_every_sampling_a_request_may_ask_for_can_be_drawn(extreme: dict[str, float]) -> None:
    """An error here would end every stream of the context."""
    made = sampler(Sampling(**{"seed": 1, **extreme}))  # type: ignore[arg-type]
    for step in range(2 * SLOTS):
        assert 0 <= draw(made, logits(1, step), [0])[0] <= CODES


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_p": 0.5},
        {"top_p": 0.05},
        {"top_k": 7, "top_p": 1.0},
        {"min_p": 0.2, "top_p": 1.0},
        {"top_k": 12, "top_p": 0.8, "min_p": 0.1, "temperature": 1.3},
    ],
)
def test_drawn_frequencies_are_those_of_the_plain_reference(options: dict[str, float]) -> None:
    base = {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.0}
    made = sampler(*(Sampling(**{**base, **options}, seed=seed) for seed in range(ROWS)))  # type: ignore[arg-type]
    row = logits(1)
    expected = reference(np.append(row[0, :CODES], row[0, END]), Sampling(**{**base, **options}))  # type: ignore[arg-type]
    counts = np.zeros(CODES + 1)
    draws = 3000
    rows = list(range(ROWS))
    for _ in range(draws):
        made._step[:] = made._step // SLOTS * SLOTS  # stay at slot 0, where the end is legal
        for token in draw(made, np.repeat(row, ROWS, axis=0), rows):
            counts[token] += 1
        made._step += SLOTS
    total = draws * ROWS
    assert (counts[expected == 0] == 0).all()
    error = np.abs(counts / total - expected)
    assert (error < 5 * np.sqrt(expected * (1 - expected) / total) + 1e-4).all()


def test_only_the_codes_of_the_slot_are_legal_and_the_end_at_slot_0_alone() -> None:
    made = sampler(Sampling(temperature=2.0, top_p=1.0, seed=3))
    for step in range(200):
        values = np.full((1, VOCABULARY.size), 50, np.float32)
        values[0, END] = 60 if step % SLOTS else -60
        slot = step % SLOTS
        values[0, slot * CODES : (slot + 1) * CODES] = 0
        assert draw(made, values, [0])[0] < CODES


def test_greedy_takes_the_greatest_and_the_end_where_it_is_greatest() -> None:
    made = sampler(Sampling(temperature=0, repetition_penalty=1.0, seed=0))
    values = np.zeros((1, VOCABULARY.size), np.float32)
    values[0, END] = 5
    assert draw(made, values, [0]) == [CODES]
    values[0, CODES + 9] = 1
    assert draw(made, values, [0]) == [9]


def test_the_repetition_penalty_looks_at_the_same_slot_and_forgets_after_its_window() -> None:
    made = sampler(Sampling(temperature=0, repetition_penalty=2.0, seed=0), history=2)
    values = np.zeros((1, VOCABULARY.size), np.float32)
    values[0, END] = -9
    for slot in range(SLOTS):
        values[0, slot * CODES + 4] = 3.0
        values[0, slot * CODES + 5] = 2.9
        values[0, slot * CODES + 6] = 2.8
    frames = [[draw(made, values, [0])[0] for _ in range(SLOTS)] for _ in range(4)]
    assert frames == [[4] * 7, [5] * 7, [6] * 7, [4] * 7]


def test_the_penalty_counts_a_repeated_code_once_and_lowers_negative_logits_too() -> None:
    repeated = {3, 8}
    sampling = Sampling(temperature=1, top_p=1, repetition_penalty=1.5, seed=0)
    made = sampler(sampling)
    made._history[0, 0] = [3, 3, 8, CODES + 1]
    row = logits(1)
    work = made.gather(row, np.arange(1), np.zeros(1, np.int64))
    before = work.copy()
    made.draw(work, np.zeros(1, np.int64))
    expected = reference(before[0, : CODES + 1], sampling, repeated)
    weights = work[0, : CODES + 1] / work[0, : CODES + 1].sum()
    assert np.allclose(weights, expected, atol=1e-6)


def test_a_row_is_drawn_the_same_alone_and_among_others() -> None:
    settings = [
        Sampling(temperature=0.3 + 0.2 * n, top_p=0.3 + 0.08 * n, top_k=5 * (n % 3), seed=n)
        for n in range(ROWS)
    ]
    together, alone = sampler(*settings), sampler(*settings)
    for step in range(300):
        values = logits(ROWS, step, 1.0)
        together_tokens = draw(together, values, list(range(ROWS)))
        assert together_tokens == [draw(alone, values[n : n + 1], [n])[0] for n in range(ROWS)]


def test_a_sequence_that_begins_in_a_row_is_drawn_by_its_own_settings() -> None:
    made, row, rows = sampler(Sampling(temperature=2.0, top_p=1.0, seed=1)), logits(1), np.array([0])
    made.draw(made.gather(row, np.arange(1), rows), rows)
    made.open(0, Sampling(temperature=0, repetition_penalty=1.0, seed=1))
    row[0, 7] = 90
    assert made.draw(made.gather(row, np.arange(1), rows), rows).tolist() == [7]


def test_a_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    keys, steps = np.arange(4, dtype=np.uint64), np.full(4, 9)
    assert (uniform(keys, steps, 0) == uniform(keys, steps, 0)).all()
    many = uniform(np.repeat(np.uint64(5), 20_000), np.arange(20_000), 0)
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 0.03
    assert len(np.unique(uniform(keys, steps, 0))) == 4


def test_unconstrained_rows_draw_from_the_whole_vocabulary() -> None:
    made = Sampler(VOCABULARY, 1, 4)
    made.open(0, Sampling(temperature=0, repetition_penalty=3.0, seed=0), constrained=False)
    values = np.zeros(VOCABULARY.size, np.float32)
    values[VOCABULARY.begin_of_text] = 3
    values[5] = 2
    assert [made.draw_any(values, 0), made.draw_any(values, 0)] == [VOCABULARY.begin_of_text, 5]


def test_logits_that_are_nan_are_an_error_not_a_hang() -> None:
    made = sampler(Sampling(seed=0))
    with pytest.raises(EngineError, match="not a number"):
        draw(made, np.full((1, VOCABULARY.size), np.nan, np.float32), [0])
