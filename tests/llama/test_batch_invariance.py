"""What the measurement finds on devices that choose their kernels in different ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orpheus.errors import SetupError
from orpheus.llama.batch_invariance import BatchInvariance, measure_batch_invariance
from orpheus.llama.batches import NO_KV_ROOM, BatchRow

TOKENS = range(100, 400)


class Device:
    """A context whose logits are the tokens read so far, and the sum of what `kernel` (rows, past) adds in each pass."""

    def __init__(self, kernel: Callable[[int, int], float], sequences: int = 34) -> None:
        self.sequences = sequences
        self.decodes = 0
        self.full = False
        self._kernel = kernel
        self._read: dict[int, list[float]] = {}
        self._logits: NDArray[np.float32] = np.zeros(0, np.float32)

    def decode(self, rows: Sequence[BatchRow]) -> int:
        """As llama.cpp: passes of as many tokens of each sequence that has some left."""
        if self.full:
            return NO_KV_ROOM
        self.decodes += 1
        left = {row.seq_id: list(row.tokens) for row in rows}
        while left:
            count = min(map(len, left.values()))
            for seq_id, tokens in left.items():
                read = self._read.setdefault(seq_id, [])
                added = self._kernel(count * len(left), len(read))
                read += [token + added for token in tokens[:count]]
            left = {seq_id: tokens[count:] for seq_id, tokens in left.items() if tokens[count:]}
        self._logits = np.array([[sum(self._read[row.seq_id])] for row in rows], np.float32)
        return 0

    def logits(self, rows: int) -> NDArray[np.float32]:
        return self._logits[:rows]

    def free(self, seq_id: int) -> None:
        self._read.pop(seq_id, None)


def found(kernel: Callable[[int, int], float], streams: int) -> BatchInvariance:
    context: Any = Device(kernel)
    return measure_batch_invariance(context, TOKENS, streams)


@pytest.mark.parametrize("streams", [1, 2, 8, 32])
def test_one_kernel_for_everything_is_invariant(streams: int) -> None:
    assert found(lambda rows, past: 0.25, streams) == BatchInvariance(True, True)


def test_another_kernel_for_a_lone_row_is_told_apart() -> None:
    assert found(lambda rows, past: 0.5 * (rows == 1), 8) == BatchInvariance(True, False)


@pytest.mark.parametrize("streams", [2, 3, 8, 32])
def test_a_kernel_that_changes_above_eight_rows_is_not_invariant(streams: int) -> None:
    """CUDA's: with two streams no batch of single rows shows it, but a prompt does."""
    assert not found(lambda rows, past: 0.5 * (rows > 8), streams).among_batches


@pytest.mark.parametrize("rows_between", [3, 5, 9, 16, 24])
def test_a_kernel_for_some_rows_between_two_and_full_is_found(rows_between: int) -> None:
    assert not found(lambda rows, past: 0.5 * (rows == rows_between), 32).among_batches


def test_attention_over_a_past_counts() -> None:
    """A single token with nothing before it looks the same in any company."""
    assert not found(lambda rows, past: 0.5 * (rows > 4 and past > 0), 8).among_batches


def test_a_lone_stream_needs_no_company() -> None:
    assert found(lambda rows, past: float(rows), 1) == BatchInvariance(True, True)


def test_it_stops_at_the_first_difference_but_has_run_a_full_batch() -> None:
    different, same = Device(lambda rows, past: float(rows)), Device(lambda rows, past: 0.0)
    for device in (different, same):
        context: Any = device
        measure_batch_invariance(context, TOKENS, 32)
    assert different.decodes < same.decodes / 4


def test_no_room_is_a_setup_error() -> None:
    context: Any = Device(lambda rows, past: 0.0)
    context.full = True
    with pytest.raises(SetupError, match="ORPHEUS_CONTEXT_TOKENS"):
        measure_batch_invariance(context, TOKENS, 2)
