"""Measure whether a sequence's logits depend on the sequences that are decoded beside it.

llama.cpp picks its kernels by weight type, device, number of rows and length of the past, so this is measured at each
start rather than assumed, on what streams do: read a prompt, then add a token at a time, in companies of every size at
which some device changes its kernels. The measurement also allocates what the first request would otherwise wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import SetupError
from orpheus.llama.batches import BatchRow

if TYPE_CHECKING:
    from orpheus.llama.backend import Context

# CUDA's kernels for quantized weights change at 2, 4, 8 and 9 rows, and then every 8 (mmvq.cu, mmq.cu).
COMPANIES = (*range(1, 18), 24, 25, 32, 33, 48, 64, 65, 96, 128, 129)
PROMPT_TOKENS = 9  # read alone in one pass, in company in passes of 1 and 8
STEPS = 3  # of one token each, after the prompt


@dataclass(frozen=True)
class BatchInvariance:
    """Whether logits have the same bits."""

    among_batches: bool  # whatever sequences are decoded beside one
    alone: bool  # as with no other


def measure_batch_invariance(context: Context, tokens: Sequence[int], streams: int) -> BatchInvariance:
    """Decode one sequence alone and among up to `streams`, which are made of any `tokens`.

    SetupError if the cache has no room.
    """
    full = _logits_among(context, tokens, streams)
    if streams == 1:
        return BatchInvariance(True, True)
    lone = _logits_among(context, tokens, 1)
    alone = _equal(lone[1:], full[1:])
    # A lone prompt is read as it is; a lone row after it may be padded (see batches.py).
    among = _equal(lone[:1], full[:1])
    for company in COMPANIES[1:]:
        if among and company < streams:
            among = _equal(_logits_among(context, tokens, company), full)
    return BatchInvariance(among_batches=among, alone=alone)


def _logits_among(context: Context, tokens: Sequence[int], streams: int) -> NDArray[np.float32]:
    """The logits of sequence 0, float32 (1 + STEPS, vocabulary): after its prompt, and after each token that follows."""
    watched = [tuple(tokens[:PROMPT_TOKENS]), *((token,) for token in tokens[PROMPT_TOKENS:][:STEPS])]
    others = range(1, min(streams, context.sequences))
    if others:  # they have a past of their own
        _decode(context, [BatchRow(seq_id, 0, (tokens[seq_id % len(tokens)],), True) for seq_id in others])
    found, position = [], 0
    for step, added in enumerate(watched, start=1):
        rows = [BatchRow(0, position, added, True)]
        rows += [BatchRow(seq_id, step, (tokens[(seq_id + step) % len(tokens)],), True) for seq_id in others]
        _decode(context, rows)
        found.append(context.logits(len(rows))[0].copy())
        position += len(added)
    for seq_id in (0, *others):
        context.free(seq_id)
    return np.stack(found)


def _decode(context: Context, rows: list[BatchRow]) -> None:
    if context.decode(rows):
        raise SetupError("llama.cpp has no room for one prompt per stream: raise ORPHEUS_CONTEXT_TOKENS.")


def _equal(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    return bool((left == right).all())
