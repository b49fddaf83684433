"""Bookkeeping of streams: no slot leaks, ids stay dense, nobody starves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orpheus.llama.batches import Row, chunk, packing, passes
from orpheus.llama.scheduler import Plan, Scheduler, TokenSequence
from orpheus.sampling import Sampling
from orpheus.vocabulary import FRAME_S

STREAMS, BATCH = 5, 48
_names = itertools.count()


def job(prompt: int = 9) -> TokenSequence[int]:
    return TokenSequence(next(_names), tuple(range(prompt)), limit=70, sampling=Sampling(seed=0))


def advance(scheduler: Scheduler[int], now: float = 0.0) -> Plan[int]:
    """Admit, plan, and take the step as the decode thread would."""
    scheduler.admit()
    plan = scheduler.plan(now)
    for done in scheduler.fed(plan.jobs, plan.rows):
        done.todo = (0,)
        done.generated += 1
        done.frames = done.generated // 7
    return plan


class Streams(RuleBasedStateMachine):
    """Streams come, go, pause and resume in any order, against a model of what the cache holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: Scheduler[int] = Scheduler(STREAMS, BATCH)
        self.scheduler.even = True
        self.cache: dict[int, int] = {}  # sequence → tokens held
        self.live: list[TokenSequence[int]] = []
        self.now = 0.0

    @rule(prompt=st.integers(1, 120))
    def arrive(self, prompt: int) -> None:
        self.live.append(job(prompt))
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
            self.now += seconds
            plan = advance(self.scheduler, self.now)
            for sequence in plan.forget:
                self.cache.pop(sequence, None)
            for source, target in plan.moves:
                assert target not in self.cache, "a move overwrote a stream"
                if source in self.cache:
                    self.cache[target] = self.cache.pop(source)
            for row in plan.rows:
                assert self.cache.get(row.sequence, 0) == row.position
                self.cache[row.sequence] = row.position + len(row.tokens)
            rows = [*plan.rows, plan.idle] if plan.idle else plan.rows
            assert sum(len(row.tokens) for row in rows) <= BATCH
            ids = [row.sequence for row in rows]
            assert plan.idle is None or plan.idle.sequence not in self.cache
            assert ids == list(range(ids[0], ids[0] + len(ids))) if ids else True
            assert sum(len(row.tokens) > 1 for row in plan.rows) <= 1
            assert sum(len(row.tokens) == 1 for row in rows) != 1, "a token stood alone"
            running = [j for j in self.scheduler.active if not j.paused]
            assert bool(plan.rows) == bool(running)

    @invariant()
    def no_place_or_id_is_lost_or_shared(self) -> None:
        active = self.scheduler.active
        assert len({j.place for j in active}) == len({j.sequence for j in active}) == len(active) <= STREAMS
        assert len(self.scheduler._free_places) + len(active) == STREAMS
        assert all(0 <= j.sequence < self.scheduler.sequences for j in active)
        assert {id(j) for j in self.live} == {id(j) for j in (*active, *self.scheduler.waiting)}


Streams.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStreams = Streams.TestCase


@given(st.data())
def test_packing_ends_dense_and_never_overwrites(data: st.DataObject) -> None:
    sequences = data.draw(st.integers(3, 12))
    taken = data.draw(st.sets(st.integers(0, sequences - 1), max_size=sequences - 2))
    ready = {n for n in taken if data.draw(st.booleans())}
    place = {n: n for n in taken}
    for source, target in packing(ready, taken, sequences, keep_free=True):
        assert target not in place
        place[target] = place.pop(source)
    assert {now for now, was in place.items() if was in ready} == set(range(len(ready)))
    assert len(ready) not in place


def test_a_full_house_without_pauses_needs_one_move_a_hole() -> None:
    assert packing({0, 1, 3, 4, 5}, {0, 1, 3, 4, 5}, 8) == [(5, 2)]


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
    made = [Row(sequence, 0, (0,) * tokens, True) for sequence, tokens in rows]
    assert passes(made, 512) == count


def test_a_short_request_begins_while_long_ones_run() -> None:
    scheduler: Scheduler[int] = Scheduler(3, BATCH)
    scheduler.add(job())
    for _ in range(50):
        advance(scheduler)
    late = job()
    scheduler.add(late)
    for _ in range(8):
        advance(scheduler)
    assert late.frames == 1


def test_a_long_prompt_is_read_in_chunks_and_does_not_hold_up_the_others() -> None:
    scheduler: Scheduler[int] = Scheduler(3, BATCH)
    first, long = job(), job(400)
    scheduler.add(first)
    advance(scheduler)
    scheduler.add(long)
    for _ in range(5):
        before = first.generated
        advance(scheduler)
        assert first.generated == before + 1
    assert 0 < long.position < 400


def test_streams_well_ahead_of_their_listeners_give_way_to_a_first_frame() -> None:
    scheduler: Scheduler[int] = Scheduler(8, 512)
    old = [job() for _ in range(5)]
    for each in old:
        scheduler.add(each)
    for _ in range(40):
        advance(scheduler)
    new = job()
    scheduler.add(new)
    assert advance(scheduler, now=0.0).jobs == [new]  # 5 frames ahead
    late = 5 * FRAME_S
    assert len(advance(scheduler, now=late).jobs) == 6  # nobody is ahead any more


@given(st.integers(2, 500), st.integers(0, 100))
def test_a_chunk_never_leaves_one_or_two_tokens_of_a_long_prompt(left: int, room: int) -> None:
    count = chunk(left, room)
    assert 0 <= count <= min(left, max(room, 0))
    assert left == 2 or (left - count) not in (1, 2)
