"""The shapes, padding and masks of the CUDA path, on the CPU, with the capture replaced by a plain call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from orpheus.codec import StreamState, decode_all
from orpheus.codec.checkpoint import Checkpoint, read_config
from orpheus.codec.graphs import GraphedDecoder
from orpheus.codec.layers import fold
from orpheus.codec.offline import OfflineDecoder
from tests.support.random_snac import EXACT, random_codes, save_random_snac


def call_again(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Takes the place of a graph on a machine without a GPU."""
    out = run()
    return lambda: out.copy_(run()), out


@pytest.mark.parametrize("lookahead", [4, EXACT])
def test_streams_through_fixed_shapes_equal_the_offline_decode(tmp_path: Path, lookahead: int) -> None:
    folder = save_random_snac(tmp_path)
    config = read_config(folder)
    network = fold(config, Checkpoint(folder))
    decoder = GraphedDecoder(
        config, network, noise=True, device=torch.device("cpu"), batches=(1, 2, 4), capture=call_again
    )
    decoder.max_latents = 16
    decoder.warm_up()
    offline = OfflineDecoder.load(folder)
    lengths = [0, 7, 70, 74, 140, 35, 210]
    codes = [random_codes(decoder, length, seed) for seed, length in enumerate(lengths)]
    states = [StreamState(decoder, seed, lookahead) for seed in range(len(lengths))]
    pcm: list[list[NDArray[np.float32]]] = [[] for _ in lengths]
    for start in range(0, 210, 21):
        for row, state in enumerate(states):
            if not state.finished:
                state.add_codes(codes[row][start : start + 21])
                if start + 21 >= lengths[row]:
                    state.finish()
        for row, samples in enumerate(decode_all(decoder, states)):
            pcm[row].append(samples)
    for row, pieces in enumerate(pcm):
        got, expected = np.concatenate(pieces), offline.decode(codes[row], seed=row)
        assert got.shape == expected.shape
        exact_from = 0 if lookahead == EXACT else 4 * decoder.hop
        assert np.abs(got - expected)[exact_from:].max(initial=0) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_on_a_gpu_equal_the_offline_decode(tmp_path: Path) -> None:
    folder = save_random_snac(tmp_path)
    decoder, offline = GraphedDecoder.load(folder, device="cuda"), OfflineDecoder.load(folder)
    decoder.warm_up()
    codes = random_codes(decoder, 140)
    state = StreamState(decoder, 1, EXACT)
    state.add_codes(codes)
    state.finish()
    (pcm,) = decode_all(decoder, [state])
    assert np.abs(pcm - offline.decode(codes, seed=1)).max() < 1e-4
