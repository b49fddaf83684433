"""A fresh context → whether a stream's logits depend on the streams decoded beside it.

Knows nothing of scheduling. llama.cpp picks its kernels by weight type, device and number of rows, so this is
measured at each start rather than believed; it also allocates what the first request would wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import SetupError
from orpheus.llama.batches import Row

if TYPE_CHECKING:
    from orpheus.llama.backend import Context


@dataclass(frozen=True)
class BatchInvariance:
    same_in_company: bool  # bit for bit, beside one stream and in a full batch
    differs_alone: bool


def measure_batch_invariance(context: Context, token: int, streams: int) -> BatchInvariance:
    """Decode `token` alone, beside one more and in a full batch. SetupError where there is no room for that."""
    alone, pair, full = (_first_logits(context, token, count) for count in (1, 2, max(2, streams)))
    return BatchInvariance(bool((pair == full).all()), not bool((alone == pair).all()))


def _first_logits(context: Context, token: int, streams: int) -> NDArray[np.float32]:
    rows = [Row(number, 0, (token,), True) for number in range(min(streams, context.sequences))]
    if context.decode(rows):
        raise SetupError("llama.cpp has no room for one token a stream: raise ORPHEUS_CONTEXT_TOKENS.")
    first: NDArray[np.float32] = context.logits(len(rows))[0].copy()
    for row in rows:
        context.forget(row.sequence)
    return first
