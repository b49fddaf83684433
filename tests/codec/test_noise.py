"""Keyed noise: the same however it is asked for, normal, and independent where keys differ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orpheus import embedded
from orpheus.codec.decoder import Decoder
from orpheus.codec.layout import PADDING
from orpheus.codec.noise import bases, keyed_noise, quantile_table

TABLE = quantile_table()


@given(seed=st.integers(), start=st.integers(-5000, 1 << 40), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_any_chunking_gives_the_same_bytes(seed: int, start: int, cuts: list[int]) -> None:
    whole = keyed_noise(seed, 1, start, 300, TABLE)
    bounds = [0, *sorted(cuts), 300]
    parts = [keyed_noise(seed, 1, start + a, b - a, TABLE) for a, b in itertools.pairwise(bounds)]
    assert torch.cat(parts).numpy().tobytes() == whole.numpy().tobytes()


def test_the_decoder_uses_the_same_bytes_as_the_offline_decode() -> None:
    decoder = Decoder.load(embedded.CODEC)
    positions, seeds = [0, 3, 100_000], [1, -2, 1 << 70]
    blocks = decoder._noises(decoder.noise_bases(positions, seeds), 5, len(decoder.network.blocks))
    rate, delay = 1, PADDING
    for number, block in enumerate(decoder.network.blocks):
        rate *= block.stride
        delay = delay * block.stride + block.padding
        rows = blocks[number].view(-1, 3)
        for row, (position, seed) in enumerate(zip(positions, seeds, strict=True)):
            expected = keyed_noise(seed, number, position * rate - delay, 5 * rate, TABLE)
            assert torch.equal(rows[:, row], expected)
        delay += sum(PADDING * unit.conv.dilation for unit in block.units)
    assert bases(seeds, [[0, 0, 0]]).shape == (1, 3)


def test_it_is_unit_normal() -> None:
    values = keyed_noise(1, 0, 0, 2_000_000, TABLE).double().numpy()
    assert abs(values.mean()) < 0.003
    assert abs(values.std() - 1) < 0.002
    assert abs((values**3).mean()) < 0.01
    assert abs((values**4).mean() - 3) < 0.03
    for quantile, z in ((0.5, 0.0), (0.8413447, 1.0), (0.9772499, 2.0), (0.9986501, 3.0), (0.9999683, 4.0)):
        share = (values < z).mean()
        assert abs(share - quantile) < 5 * np.sqrt(quantile * (1 - quantile) / len(values))
    assert 4.5 < np.abs(values).max() < 6


@pytest.mark.parametrize(
    "other", [(1, 0, 1), (1, 0, 2), (1, 0, 64), (1, 1, 0), (2, 0, 0), (-1, 0, 0), (1 << 63, 0, 0)]
)
def test_neighbouring_samples_blocks_and_seeds_are_independent(other: tuple[int, int, int]) -> None:
    count = 400_000
    a = keyed_noise(1, 0, 0, count, TABLE).double()
    b = keyed_noise(*other, count, TABLE).double()
    for f in (lambda x: x, lambda x: x**2 - 1):
        assert abs(float((f(a) * f(b)).mean())) < 5 * float((f(a) ** 2).mean()) / np.sqrt(count)


def test_its_spectrum_is_flat() -> None:
    values = keyed_noise(9, 2, 0, 1 << 20, TABLE).numpy()
    power = (np.abs(np.fft.rfft(values.reshape(256, -1), axis=1)) ** 2).mean(axis=0)[1:-1]
    assert power.std() / power.mean() < 1.25 / 16
