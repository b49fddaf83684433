"""Which sequences decode in the next step, and under which ids: queueing, chunked prefill, pauses and packing.

Pure bookkeeping, for one thread; time is passed in, in seconds. batches.py says why ids are packed and rows padded.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orpheus.llama.batches import SPARE, BatchRow, packing_moves, prefill_chunk
from orpheus.playout import PlayoutClock
from orpheus.sampling import Sampling

if TYPE_CHECKING:
    from orpheus.llama.stream import Stream

# A stream whose listener has more audio than this gives way to first frames: two frames and the steps to them.
HEAD_START_S = 0.35
PREFILLS = 1  # prompts read per step: each costs another pass over the weights


@dataclass(eq=False)
class TokenSequence:
    """A completion in the decode thread: its tokens in the cache, those pending, and the frame in progress."""

    stream: Stream  # its reader
    pending_tokens: tuple[int, ...]  # not in the cache yet: the prompt, later the token generated last
    max_tokens: int  # to generate; whole frames, and within the context
    sampling: Sampling  # with a seed
    first_slot: int = 0  # of the first token generated
    sampler_row: int = -1  # fixed while it runs
    seq_id: int = -1  # llama.cpp's; changes when ids are packed
    position: int = 0  # tokens in the cache
    generated: int = 0  # tokens
    first_token_s: float = 0.0  # when it had its first token
    paused: bool = False  # its reader does not read
    starved: bool = False  # llama.cpp had no room for it; waits until another sequence ends
    frame_ids: list[int] = field(default_factory=list)  # of the frame in progress
    playout: PlayoutClock = field(default_factory=PlayoutClock)  # of a listener who hears each frame at once

    @property
    def prefilling(self) -> bool:
        return self.generated == 0

    @property
    def has_first_frame(self) -> bool:
        return self.playout.ends_s is not None


@dataclass(frozen=True)
class StepPlan:
    """One step: free the caches of `freed`, then make the `moves`, then decode `rows`, one per sequence."""

    freed: list[int]
    moves: list[tuple[int, int]]
    sequences: list[TokenSequence]
    rows: list[BatchRow]
    padding_row: BatchRow | None = None  # belongs to no sequence; decoded last, then freed


class Scheduler:
    """Sequences, first come, first served. Used from one thread."""

    def __init__(self, streams: int, batch_tokens: int) -> None:
        self.streams = streams
        self.seq_ids = streams + SPARE
        self.pad_lone_rows = False
        self.waiting: deque[TokenSequence] = deque()
        self.active: list[TokenSequence] = []
        self._batch_tokens = batch_tokens
        self._free_rows = list(range(streams - 1, -1, -1))  # of the sampler
        self._freed: list[int] = []  # sequence ids whose cache the next step frees

    def add(self, sequence: TokenSequence) -> None:
        self.waiting.append(sequence)

    def release(self, sequence: TokenSequence) -> None:
        """Take a sequence out, whatever its state. Its cache is freed in the next step."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence not in self.active:
            return
        self.active.remove(sequence)
        self._free_rows.append(sequence.sampler_row)
        self._freed.append(sequence.seq_id)
        for other in self.active:
            other.starved = False

    def reset(self) -> list[TokenSequence]:
        """Take out and return every active sequence because the context is lost; those that wait stay."""
        lost = list(self.active)
        for sequence in lost:
            self.release(sequence)
        self._freed.clear()
        return lost

    def admit(self) -> list[TokenSequence]:
        """Start waiting sequences while there is room and few enough prompts are being read; → those started."""
        started = []
        prefills = sum(sequence.prefilling for sequence in self.active)
        while self.waiting and self._free_rows and prefills < PREFILLS:
            sequence = self.waiting.popleft()
            sequence.sampler_row = self._free_rows.pop()
            taken = {other.seq_id for other in self.active}
            sequence.seq_id = next(seq_id for seq_id in itertools.count() if seq_id not in taken)
            self.active.append(sequence)
            started.append(sequence)
            prefills += 1
        return started

    def plan(self, now_s: float) -> StepPlan:
        """The next step; no rows if nothing can run."""
        ready = [sequence for sequence in self.active if not sequence.paused and not sequence.starved]
        freed, self._freed = self._freed, []
        moves = self._pack(ready)
        ready.sort(key=lambda sequence: sequence.seq_id)
        # With every stream taken, throughput is what shortens the queue; small steps would lengthen it.
        chosen = self._first_frames_first(ready, now_s) if self._free_rows else ready
        room = self._batch_tokens - 1 - _decoding(chosen)
        sequences, rows = [], []
        for sequence in chosen:
            pending = sequence.pending_tokens
            count = prefill_chunk(len(pending), room) if len(pending) > 1 else 1
            if count == 0:
                continue
            if count > 1:
                room -= count
            rows.append(BatchRow(sequence.seq_id, sequence.position, pending[:count], count == len(pending)))
            sequences.append(sequence)
        padding_row = None
        lone = sum(len(row.tokens) == 1 for row in rows) == 1
        if self.pad_lone_rows and lone and len(chosen) == len(ready):
            padding_row = BatchRow(len(ready), 0, rows[0].tokens[:1], True)
        return StepPlan(freed, moves, sequences, rows, padding_row)

    def decoded(self, sequences: Sequence[TokenSequence], rows: Sequence[BatchRow]) -> list[TokenSequence]:
        """Note that `rows` are in the cache; → the sequences that have logits now, in the order of the logits."""
        with_logits = []
        for sequence, row in zip(sequences, rows, strict=True):
            sequence.position += len(row.tokens)
            sequence.pending_tokens = sequence.pending_tokens[len(row.tokens) :]
            if row.needs_logits:
                with_logits.append(sequence)
        return with_logits

    def _first_frames_first(self, ready: list[TokenSequence], now_s: float) -> list[TokenSequence]:
        """While a sequence has no first frame, leave out those well ahead of their listeners.

        A small batch is a fast one, so a new listener waits little. The others lose nothing audible, and if nobody
        is ahead all run together.
        """
        if all(sequence.has_first_frame for sequence in ready):
            return ready
        urgent = next(
            sequence
            for sequence in ready
            if not sequence.has_first_frame or sequence.playout.buffered_s(now_s) < HEAD_START_S
        )
        start = urgent.seq_id  # `ready` is 0 … n-1, so all from here on are consecutive
        while start and _decoding(ready[start:]) == 1:
            start -= 1
        return ready[start:]

    def _pack(self, ready: Iterable[TokenSequence]) -> list[tuple[int, int]]:
        """Give the `ready` sequences the ids 0 … n-1; → the moves of their caches."""
        by_id = {sequence.seq_id: sequence for sequence in self.active}
        ready_ids = {sequence.seq_id for sequence in ready}
        moves = packing_moves(ready_ids, set(by_id), self.seq_ids, keep_next_free=self.pad_lone_rows)
        for source, target in moves:
            by_id[target] = by_id.pop(source)
            by_id[target].seq_id = target
        return moves


def _decoding(sequences: Iterable[TokenSequence]) -> int:
    """How many have one pending token: those that generate, and prompts with one token left."""
    return sum(len(sequence.pending_tokens) == 1 for sequence in sequences)
