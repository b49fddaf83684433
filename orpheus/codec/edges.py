"""Zeros beyond where streams begin and end, at the input of each layer that looks at its neighbours.

In two forms: for positions the host knows, and for positions held in tensors, which a captured graph needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

OPEN_END = 1 << 40  # `end` of a stream whose last latent is not known: beyond any stream, without overflow


class Edges(Protocol):
    """Where streams begin and end within a step."""

    def clear(self, rows: Tensor, rate: int, delay: int) -> None:
        """Zero those of `rows` (time, streams, channels) that lie outside their stream.

        `rate`: rows per latent. `delay`: rows by which they lag behind the latents of this step.
        """

    def all_before(self, rate: int, delay: int) -> bool:
        """Whether every row that lags so far behind is known to lie before the first of its stream."""


class RowEdges:
    """Edges known to the host: touches only streams that begin or end in this step."""

    def __init__(
        self, positions: Sequence[int], ends: Sequence[int], latents: int, longest_delay: int
    ) -> None:
        self._stop = max(positions) + latents
        self._streams = [
            (stream, position, end)
            for stream, (position, end) in enumerate(zip(positions, ends, strict=True))
            if position < longest_delay or position + latents > end
        ]

    def clear(self, rows: Tensor, rate: int, delay: int) -> None:
        count = rows.shape[0]
        for stream, position, end in self._streams:
            first = position * rate - delay  # where in the stream this step's first row lies
            if first < 0:
                rows[: min(-first, count), stream] = 0
            if (after := end * rate - first) < count:
                rows[max(after, 0) :, stream] = 0

    def all_before(self, rate: int, delay: int) -> bool:
        return self._stop * rate <= delay


class MaskEdges:
    """Edges held in tensors, for a graph that is captured once: touches every row of every stream.

    One mask serves all layers of a rate, each a window of it: with a mask of their own they were a third of the graph.
    """

    def __init__(self, positions: Tensor, ends: Tensor, latents: int, longest_delay: int) -> None:
        """`longest_delay`: latents by which any layer lags behind."""
        self._positions, self._ends = positions, ends
        self._latents, self._longest_delay = latents, longest_delay
        self._masks: dict[int, Tensor] = {}

    def clear(self, rows: Tensor, rate: int, delay: int) -> None:
        if rate not in self._masks:
            self._masks[rate] = self._mask(rate).to(rows.dtype)
        start = self._longest_delay * rate - delay
        rows.mul_(self._masks[rate][start : start + rows.shape[0], :, None])

    def all_before(self, rate: int, delay: int) -> bool:
        return False  # a graph is captured for every position

    def _mask(self, rate: int) -> Tensor:
        """(rows, streams): from `longest_delay` latents before this step to its end, what lies within a stream."""
        rows = torch.arange(-self._longest_delay * rate, self._latents * rate, device=self._positions.device)
        at = rows[:, None] + self._positions * rate
        return (at >= 0) & (at < self._ends * rate)
