"""Streams that wait, run and pause → the rows of the next step, and the moves that keep their ids dense.

Pure bookkeeping: knows nothing of llama.cpp, sampling, threads or HTTP. Time is passed in, in seconds.
Why ids are packed and rows kept company is told in batches.py.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orpheus.llama.batches import SPARE, Row, chunk, packing
from orpheus.sampling import Sampling
from orpheus.vocabulary import FRAME_S

HEAD_START_S = 0.35  # a stream this far ahead of its listener gives way to first frames: two frames and the steps to them
PREFILLS = 1  # prompts read in a step: each costs another pass over the weights

Owner = TypeVar("Owner")


@dataclass(eq=False)
class TokenSequence(Generic[Owner]):
    """A stream as the decode thread sees it."""

    owner: Owner
    todo: tuple[int, ...]  # tokens whose keys and values are not in the cache yet
    limit: int  # most tokens to generate
    sampling: Sampling
    first_slot: int = 0  # slot of the first token generated
    place: int = -1  # where the sampler keeps it; fixed while it runs
    sequence: int = -1  # llama.cpp's id; changes when ids are packed
    position: int = 0  # tokens in the cache
    generated: int = 0
    frames: int = 0  # whole frames published
    first_frame_at: float = 0.0
    paused: bool = False  # its consumer does not read
    starved: bool = False  # llama.cpp had no room for it; waits until another stream ends
    frame: list[int] = field(default_factory=list)  # ids of the frame under way
    numbers: list[int] = field(default_factory=list)  # and their numbers

    @property
    def prefilling(self) -> bool:
        return self.generated == 0

    def lead_s(self, now: float) -> float:
        """Seconds of audio made beyond what a listener has heard since the first frame."""
        return self.frames * FRAME_S - (now - self.first_frame_at)


@dataclass(frozen=True)
class Plan(Generic[Owner]):
    """One step: free the caches of `forget`, then make the `moves`, then decode `rows` of `jobs`."""

    forget: list[int]
    moves: list[tuple[int, int]]
    jobs: list[TokenSequence[Owner]]
    rows: list[Row]
    idle: Row | None = None  # a row of no stream, decoded last and forgotten


class Scheduler(Generic[Owner]):
    """Streams in first-come order. Used from one thread."""

    def __init__(self, streams: int, batch_tokens: int) -> None:
        self.streams = streams
        self.sequences = streams + SPARE
        self.even = False
        self._batch_tokens = batch_tokens
        self.waiting: deque[TokenSequence[Owner]] = deque()
        self.active: list[TokenSequence[Owner]] = []
        self._free_places = list(range(streams - 1, -1, -1))
        self._forget: list[int] = []

    def add(self, job: TokenSequence[Owner]) -> None:
        self.waiting.append(job)

    def release(self, job: TokenSequence[Owner]) -> None:
        """Take a stream out, whatever its state. Its cache is freed by the next plan."""
        if job in self.waiting:
            self.waiting.remove(job)
        if job not in self.active:
            return
        self.active.remove(job)
        self._free_places.append(job.place)
        self._forget.append(job.sequence)
        for other in self.active:
            other.starved = False

    def reset(self) -> list[TokenSequence[Owner]]:
        """Take out every running stream because the context is lost; those that wait stay."""
        lost = list(self.active)
        for job in lost:
            self.release(job)
        self._forget.clear()
        return lost

    def admit(self) -> list[TokenSequence[Owner]]:
        """Streams that begin now, while there is room and few enough prompts are being read."""
        begun = []
        reading = sum(job.prefilling for job in self.active)
        while self.waiting and self._free_places and reading < PREFILLS:
            job = self.waiting.popleft()
            job.place = self._free_places.pop()
            taken = {other.sequence for other in self.active}
            job.sequence = next(number for number in itertools.count() if number not in taken)
            self.active.append(job)
            begun.append(job)
            reading += 1
        return begun

    def plan(self, now: float) -> Plan[Owner]:
        """The next step; no rows where nothing can run."""
        ready = [job for job in self.active if not job.paused and not job.starved]
        forget, self._forget = self._forget, []
        moves = self._pack(ready)
        ready.sort(key=lambda job: job.sequence)
        # With every place taken throughput is what shortens the queue; small steps would lengthen it.
        jobs = self._first_frames_first(ready, now) if self._free_places else ready
        room = self._batch_tokens - 1 - sum(len(job.todo) == 1 for job in jobs)
        rows, chosen = [], []
        for job in jobs:
            count = chunk(len(job.todo), room) if len(job.todo) > 1 else 1
            if count == 0:
                continue
            if count > 1:
                room -= count
            rows.append(Row(job.sequence, job.position, job.todo[:count], count == len(job.todo)))
            chosen.append(job)
        idle = None
        if self.even and sum(len(row.tokens) == 1 for row in rows) == 1 and len(jobs) == len(ready):
            idle = Row(len(ready), 0, rows[0].tokens[:1], True)
        return Plan(forget, moves, chosen, rows, idle)

    def fed(self, jobs: Sequence[TokenSequence[Owner]], rows: Sequence[Row]) -> list[TokenSequence[Owner]]:
        """Note that `rows` are in the cache; the jobs whose logits are there, in the order of the logits."""
        done = []
        for job, row in zip(jobs, rows, strict=True):
            job.position += len(row.tokens)
            job.todo = job.todo[len(row.tokens) :]
            if row.wanted:
                done.append(job)
        return done

    def _first_frames_first(
        self, ready: list[TokenSequence[Owner]], now: float
    ) -> list[TokenSequence[Owner]]:
        """While a stream has no first frame, leave out those well ahead of their listeners.

        A small batch is a quick one, so a new listener waits little; the rest lose nothing that can be heard,
        and where nobody is ahead all run together.
        """
        if all(job.frames for job in ready):
            return ready
        urgent = [job for job in ready if not job.frames or job.lead_s(now) < HEAD_START_S]
        start = urgent[0].sequence  # `ready` is 0 … n-1: all from here on stay consecutive
        while start and sum(len(job.todo) == 1 for job in ready[start:]) == 1:
            start -= 1
        return ready[start:]

    def _pack(self, ready: Iterable[TokenSequence[Owner]]) -> list[tuple[int, int]]:
        by_id = {job.sequence: job for job in self.active}
        moves = []
        ids = {job.sequence for job in ready}
        # The id after the last is kept free too, for an idle row.
        for source, target in packing(ids, set(by_id), self.sequences, keep_free=self.even):
            job = by_id.pop(source)
            job.sequence = target
            by_id[target] = job
            moves.append((source, target))
        return moves
