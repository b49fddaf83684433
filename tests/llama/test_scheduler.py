"""Bookkeeping of sequences: no id or sampler row leaks, ids stay dense, nobody starves."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orpheus.llama.batches import BatchRow, count_passes, packing_moves, prefill_chunk
from orpheus.llama.scheduler import Scheduler, StepPlan, TokenSequence
from orpheus.llama.stream import Stream
from orpheus.sampling import Sampling
from orpheus.vocabulary import FRAME_S, SLOTS

STREAMS, BATCH = 5, 48


def new_sequence(prompt: int = 9) -> TokenSequence:
    """A sequence with a prompt of so many tokens, which nobody reads."""
    return TokenSequence(
        cast(Stream, object()), tuple(range(prompt)), max_tokens=70, sampling=Sampling(seed=0)
    )


def advance(scheduler: Scheduler, now_s: float = 0.0) -> StepPlan:
    """Admit, plan, and take the step as the decode thread would."""
    scheduler.admit()
    plan = scheduler.plan(now_s)
    for sequence in scheduler.decoded(plan.sequences, plan.rows):
        sequence.pending_tokens = (0,)
        sequence.generated += 1
        if sequence.generated % SLOTS == 0:
            sequence.playout.add(FRAME_S, now_s)
    return plan


class Streams(RuleBasedStateMachine):
    """Sequences come, go, pause and resume in any order, against a model of what the cache holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(STREAMS, BATCH)
        self.scheduler.pad_lone_rows = True
        self.cache: dict[int, int] = {}  # sequence id → tokens held
        self.live: list[TokenSequence] = []
        self.now_s = 0.0

    @rule(prompt=st.integers(1, 120))
    def arrive(self, prompt: int) -> None:
        self.live.append(new_sequence(prompt))
        self.scheduler.add(self.live[-1])

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.live))
        self.live.remove(gone)
        self.scheduler.release(gone)

    @precondition(lambda self: self.scheduler.active)
    @rule(data=st.data())
    def pause_or_resume(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.scheduler.active))
        chosen.paused = not chosen.paused

    @rule(seconds=st.floats(0, 0.3), steps=st.integers(1, 9))
    def step(self, seconds: float, steps: int) -> None:
        for _ in range(steps):
            self.now_s += seconds
            plan = advance(self.scheduler, self.now_s)
            for seq_id in plan.freed:
                self.cache.pop(seq_id, None)
            for source, target in plan.moves:
                assert target not in self.cache, "a move overwrote a sequence"
                if source in self.cache:
                    self.cache[target] = self.cache.pop(source)
            for row in plan.rows:
                assert self.cache.get(row.seq_id, 0) == row.position
                self.cache[row.seq_id] = row.position + len(row.tokens)
            rows = [*plan.rows, plan.padding_row] if plan.padding_row else plan.rows
            assert sum(len(row.tokens) for row in rows) <= BATCH
            ids = [row.seq_id for row in rows]
            assert plan.padding_row is None or plan.padding_row.seq_id not in self.cache
            assert ids == list(range(ids[0], ids[0] + len(ids))) if ids else True
            assert sum(len(row.tokens) > 1 for row in plan.rows) <= 1
            assert sum(len(row.tokens) == 1 for row in rows) != 1, "a token is alone"
            running = [sequence for sequence in self.scheduler.active if not sequence.paused]
            assert bool(plan.rows) == bool(running)

    @invariant()
    def no_row_or_id_is_lost_or_shared(self) -> None:
        active = self.scheduler.active
        rows, ids = {one.sampler_row for one in active}, {one.seq_id for one in active}
        assert len(rows) == len(ids) == len(active) <= STREAMS
        assert len(self.scheduler._free_rows) + len(active) == STREAMS
        assert all(0 <= seq_id < self.scheduler.seq_ids for seq_id in ids)
        assert {id(one) for one in self.live} == {id(one) for one in (*active, *self.scheduler.waiting)}


Streams.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStreams = Streams.TestCase


@given(st.data())
def test_packing_ends_dense_and_never_overwrites(data: st.DataObject) -> None:
    sequences = data.draw(st.integers(3, 12))
    taken = data.draw(st.sets(st.integers(0, sequences - 1), max_size=sequences - 2))
    ready = {n for n in taken if data.draw(st.booleans())}
    origin = {n: n for n in taken}  # id → the one it had before
    for source, target in packing_moves(ready, taken, sequences, keep_next_free=True):
        assert target not in origin
        origin[target] = origin.pop(source)
    assert {seq_id for seq_id, was in origin.items() if was in ready} == set(range(len(ready)))
    assert len(ready) not in origin


def test_without_pauses_each_hole_takes_one_move() -> None:
    assert packing_moves({0, 1, 3, 4, 5}, {0, 1, 3, 4, 5}, 8) == [(5, 2)]


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([(n, 1) for n in range(8)], 1),
        ([(n, 1) for n in (0, 2, 4, 6)], 4),
        ([(n, 1) for n in (0, 1, 2, 3, 8, 9)], 2),
        ([*((n, 1) for n in range(8)), (8, 40)], 2),
    ],
)
def test_passes_are_counted_as_llama_cpp_makes_them(rows: list[tuple[int, int]], count: int) -> None:
    batch = [BatchRow(seq_id, 0, (0,) * tokens, True) for seq_id, tokens in rows]
    assert count_passes(batch, 512) == count


def test_a_short_request_begins_while_long_ones_run() -> None:
    scheduler = Scheduler(3, BATCH)
    scheduler.add(new_sequence())
    for _ in range(50):
        advance(scheduler)
    late = new_sequence()
    scheduler.add(late)
    for _ in range(8):
        advance(scheduler)
    assert late.has_first_frame


def test_a_long_prompt_is_read_in_chunks_and_does_not_hold_up_the_others() -> None:
    scheduler = Scheduler(3, BATCH)
    first, long = new_sequence(), new_sequence(400)
    scheduler.add(first)
    advance(scheduler)
    scheduler.add(long)
    for _ in range(5):
        before = first.generated
        advance(scheduler)
        assert first.generated == before + 1
    assert 0 < long.position < 400


def test_streams_well_ahead_of_their_listeners_give_way_to_a_first_frame() -> None:
    scheduler = Scheduler(8, 512)
    old = [new_sequence() for _ in range(5)]
    for each in old:
        scheduler.add(each)
    for _ in range(40):
        advance(scheduler)
    new = new_sequence()
    scheduler.add(new)
    assert advance(scheduler, now_s=0.0).sequences == [new]  # the others are 5 frames ahead
    later_s = 5 * FRAME_S
    assert len(advance(scheduler, later_s).sequences) == 6  # nobody is ahead any more


@given(st.integers(2, 500), st.integers(0, 100))
def test_a_chunk_never_leaves_one_or_two_tokens_of_a_long_prompt(pending: int, room: int) -> None:
    count = prefill_chunk(pending, room)
    assert 0 <= count <= min(pending, max(room, 0))
    assert pending == 2 or (pending - count) not in (1, 2)
