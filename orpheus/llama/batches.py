"""Ids and rows → the moves that pack them, and the passes llama.cpp will make of them.

Pure arithmetic: knows nothing of streams, sampling or HTTP.

With a split KV cache llama.cpp cuts a batch into one pass for each run of consecutive sequence ids (its
`split_equal`), and each pass reads all weights again. So the ids of the streams that decode are kept dense:
0 … n-1. Two sequences more than there are streams leave room to swap a paused stream out of the way and for
an idle row.

Bit-equal logits: with a split cache, llama.cpp's CPU kernels give a stream the same logits in any batch, with
one exception: some weight types (F16, not Q8_0) take another kernel for a pass with one token, or with one
output (measured on an AMD EPYC, 2026-11-21). With `even` no such pass is made: a token that would be alone is
decoded beside a neighbour's, or beside an idle row where there is none; and one prompt is read a step, in
chunks of three tokens or more, so that its last pass has one output in any company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NO_KV_SLOT = 1  # llama_decode: no room in the cache; nothing was changed, try fewer rows
SPARE = 2  # sequences of a split cache beyond the streams


@dataclass(frozen=True)
class Row:
    """One stream's tokens in a batch. `wanted`: logits after the last of them."""

    sequence: int
    position: int
    tokens: tuple[int, ...]
    wanted: bool


def packing(
    ready: set[int], taken: set[int], sequences: int, *, keep_free: bool = False
) -> list[tuple[int, int]]:
    """Moves (source, target) that bring the `ready` ids to 0 … n-1; each target is free when its turn comes.

    `ready` is part of `taken`; at least one of the `sequences` ids is free, two where id n is to be kept free.
    The fewest moves: one a hole, two where a paused stream sits in it.
    """
    count = len(ready)
    above = sorted((number for number in ready if number >= count), reverse=True)
    holes = sorted(number for number in range(count) if number not in ready)
    holes.sort(key=lambda number: number in taken)  # empty holes first: filling them frees ids for the rest
    free = set(range(count, sequences)) - taken
    moves = []
    for source, hole in zip(above, holes, strict=True):
        if hole in taken:
            refuge = max(free)
            free.remove(refuge)
            moves.append((hole, refuge))
        moves.append((source, hole))
        free.add(source)
    if keep_free and count not in free and count < sequences:
        moves.append((count, max(free)))
    return moves


def passes(rows: Sequence[Row], batch_tokens: int) -> int:
    """Forward passes llama.cpp makes of a batch (its split_equal, checked by a test)."""
    left = {row.sequence: len(row.tokens) for row in rows}
    count = 0
    while left:
        run = _runs(sorted(left))[0][:batch_tokens]
        taken = min(min(left[sequence] for sequence in run), max(1, batch_tokens // len(run)))
        for sequence in run:
            left[sequence] -= taken
            if not left[sequence]:
                del left[sequence]
        count += 1
    return count


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def chunk(left: int, room: int) -> int:
    """How many of a prompt's `left` tokens (2 or more) to read in a step: 3 or more at a time, or one of two."""
    if left == 2:
        return min(1, room)
    count = min(left, room)
    if 0 < left - count < 3:
        count = left - 3
    return count if count >= 3 else 0
