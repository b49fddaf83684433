"""Where streams begin and end → zeros there, at the input of each layer that looks at its neighbours.

Knows nothing of the layers. Two of a kind: one for places the host knows, one for places held in tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

OPEN_END = 1 << 40  # `end` of a stream whose last latent is not known: beyond any stream, and no overflow


class Edges(Protocol):
    """Where in a step the streams begin and end."""

    def clear(self, rows: Tensor, rate: int, late: int) -> None:
        """Zero the positions of (time, streams, channels) outside the stream, at `rate` a latent and `late`."""


class RowEdges:
    """Edges known on the host: touches only streams that begin or end in this step."""

    def __init__(
        self, positions: Sequence[int], ends: Sequence[int], latents: int, longest_delay: int
    ) -> None:
        self._streams = [
            (stream, position, end)
            for stream, (position, end) in enumerate(zip(positions, ends, strict=True))
            if position < longest_delay or position + latents > end
        ]

    def clear(self, rows: Tensor, rate: int, late: int) -> None:
        count = rows.shape[0]
        for stream, position, end in self._streams:
            first = position * rate - late  # where in the stream this step's first row lies
            if first < 0:
                rows[: min(-first, count), stream] = 0
            if (after := end * rate - first) < count:
                rows[max(after, 0) :, stream] = 0


class MaskEdges:
    """Edges held in tensors, for a graph captured once: touches every row of every stream."""

    def __init__(self, positions: Tensor, ends: Tensor) -> None:
        self._positions, self._ends = positions, ends

    def clear(self, rows: Tensor, rate: int, late: int) -> None:
        places = torch.arange(rows.shape[0], device=rows.device)[:, None] + (self._positions * rate - late)
        rows.mul_(((places >= 0) & (places < self._ends * rate)).to(rows.dtype)[:, :, None])
