"""Measure whether a sequence's logits depend on the sequences that are decoded beside it.

llama.cpp picks its kernels by weight type, device and number of rows, so this is measured at each start rather than
assumed. The measurement also allocates what the first request would otherwise wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import SetupError
from orpheus.llama.batches import BatchRow

if TYPE_CHECKING:
    from orpheus.llama.backend import Context


@dataclass(frozen=True)
class BatchInvariance:
    """Whether logits have the same bits."""

    among_batches: bool  # beside one sequence as in a full batch
    alone: bool  # alone as beside one sequence


def measure_batch_invariance(context: Context, token: int, streams: int) -> BatchInvariance:
    """Decode `token` alone, beside one more sequence, and in a full batch. SetupError if the cache has no room."""
    alone, pair, full = (_first_logits(context, token, count) for count in (1, 2, max(2, streams)))
    return BatchInvariance(among_batches=bool((pair == full).all()), alone=bool((alone == pair).all()))


def _first_logits(context: Context, token: int, streams: int) -> NDArray[np.float32]:
    rows = [BatchRow(seq_id, 0, (token,), True) for seq_id in range(min(streams, context.sequences))]
    if context.decode(rows):
        raise SetupError("llama.cpp has no room for one token per stream: raise ORPHEUS_CONTEXT_TOKENS.")
    first: NDArray[np.float32] = context.logits(len(rows))[0].copy()
    for row in rows:
        context.free(row.seq_id)
    return first
