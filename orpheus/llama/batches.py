"""How llama.cpp splits a batch: keeping sequence ids dense, and counting the passes over the weights a batch costs.

llama.cpp cuts a batch into one pass for each run of consecutive sequence ids (its `split_equal`), and every pass reads
all weights again. So the sequences that decode are kept at the ids 0 … n-1. Two sequences beyond the number of
streams leave room to swap a paused one out of the way, and for a padding row.

Batch invariance: llama.cpp's CPU kernels give a sequence the same logits in any batch, with one exception. Some weight
types (F16, not Q8_0) use another kernel for a pass with one token or one output (AMD EPYC, 2026-11-21). Where a model
does so, no such pass is made: a lone token is decoded beside a neighbour's, or beside a padding row; and one prompt is
read per step, in chunks of three tokens or more, so that its last pass has one output in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NO_KV_ROOM = 1  # status of llama_decode: no room in the cache; nothing was changed, try fewer rows
SPARE = 2  # sequences beyond the streams


class BatchRow(NamedTuple):
    """The tokens of one sequence in a batch."""

    seq_id: int
    position: int  # of the first token
    tokens: tuple[int, ...]
    needs_logits: bool  # after the last token


def packing_moves(
    ready: set[int], taken: set[int], sequences: int, *, keep_next_free: bool = False
) -> list[tuple[int, int]]:
    """Moves (source, target) that bring the `ready` ids to 0 … n-1; each target is free when its turn comes.

    `ready` is a subset of `taken`. At least one of the `sequences` ids is free, or two if id n is to be kept free.
    The moves are as few as possible: one per hole, two if a paused sequence occupies it.
    """
    count = len(ready)
    above = sorted((seq_id for seq_id in ready if seq_id >= count), reverse=True)
    holes = sorted(seq_id for seq_id in range(count) if seq_id not in ready)
    holes.sort(key=lambda seq_id: seq_id in taken)  # empty holes first: filling them frees ids for the rest
    free = set(range(count, sequences)) - taken
    moves = []
    for source, hole in zip(above, holes, strict=True):
        if hole in taken:
            refuge = max(free)
            free.remove(refuge)
            moves.append((hole, refuge))
        moves.append((source, hole))
        free.add(source)
    if keep_next_free and count not in free and count < sequences:
        moves.append((count, max(free)))
    return moves


def count_passes(rows: Sequence[BatchRow], batch_tokens: int) -> int:
    """Passes over the weights that llama.cpp makes of a batch: its `split_equal`, which a test compares with."""
    left = {row.seq_id: len(row.tokens) for row in rows}
    count = 0
    while left:
        run = _runs(sorted(left))[0][:batch_tokens]
        taken = min(min(left[seq_id] for seq_id in run), max(1, batch_tokens // len(run)))
        for seq_id in run:
            left[seq_id] -= taken
            if not left[seq_id]:
                del left[seq_id]
        count += 1
    return count


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Cut an ascending sequence into runs of consecutive numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def prefill_chunk(pending: int, room: int) -> int:
    """How many of a prompt's `pending` tokens (2 or more) to read in a step with `room` for as many.

    Three or more at a time, and never so that one or two are left; two pending tokens are read one by one.
    """
    if pending == 2:
        return min(1, room)
    count = min(pending, room)
    if 0 < pending - count < 3:
        count = pending - 3
    return count if count >= 3 else 0
