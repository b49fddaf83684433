"""Unit normal noise as a function of (seed, block, sample index): the same however its computation is split.

Integers and one table only, no transcendental function at run time: float32 `log` and `cos` differ between a vector's
body and its tail, and between devices; a table does not.

Counter-based: splitmix64 (Steele, Lea, Flood 2014) of key + index · γ. Two 14-bit fields of the hash each pick a
quantile of the normal; their sum over √2 is normal to five standard deviations with 2²⁸ distinct values.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_FIELD_BITS = 14


def _signed(value: int) -> int:
    """The int64 that torch holds for the 64-bit pattern of `value`: it has no unsigned multiply."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _splitmix64(value: int) -> int:
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def noise_base(seed: int, block: int, start: int) -> int:
    """int64 counter of the noise of `block` at sample `start`. `seed` is any integer."""
    key = _splitmix64(_splitmix64(seed & _MASK) ^ block)
    return _signed(key + start * _GAMMA)


def counter_offsets(count: int) -> Tensor:
    """int64 (count,): i · γ, to add to a base."""
    return torch.arange(count, dtype=torch.int64) * _signed(_GAMMA)


def quantile_table() -> Tensor:
    """float32 (2**14,): normal quantiles over √2, scaled so that the sum of two has variance 1."""
    size = 1 << _FIELD_BITS
    normal = NormalDist()
    quantiles = torch.tensor([normal.inv_cdf((i + 0.5) / size) for i in range(size)], dtype=torch.float64)
    quantiles /= quantiles.square().mean().sqrt() * 2**0.5
    # Rounded to 2⁻²⁰, so that differences between machines' libm vanish.
    return (quantiles * 2**20).round().div(2**20).float()


def noise_from_counters(counters: Tensor, table: Tensor) -> Tensor:
    """int64 counters of any shape (overwritten) → float32 noise of that shape."""
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        # torch's >> keeps the sign; the mask makes it the unsigned shift of splitmix64.
        counters ^= (counters >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        counters *= _signed(factor)
    mask = (1 << _FIELD_BITS) - 1
    high = (counters >> (64 - _FIELD_BITS)).bitwise_and_(mask)
    low = (counters >> (64 - 2 * _FIELD_BITS)).bitwise_and_(mask)
    return table.take(high).add_(table.take(low))


def keyed_noise(seed: int, block: int, start: int, count: int, table: Tensor | None = None) -> Tensor:
    """float32 (count,): the noise of one block for samples start … start + count - 1."""
    counters = counter_offsets(count) + noise_base(seed, block, start)
    return noise_from_counters(counters, quantile_table() if table is None else table)


def bases(seeds: Sequence[int], starts: Sequence[Sequence[int]]) -> Tensor:
    """int64 (blocks, rows): `noise_base` for each row's seed and each block's `starts[block][row]`."""
    return torch.tensor(
        [
            [noise_base(seed, block, start) for seed, start in zip(seeds, row_starts, strict=True)]
            for block, row_starts in enumerate(starts)
        ],
        dtype=torch.int64,
    )
