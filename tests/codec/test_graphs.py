"""The shapes, padding and masks of the CUDA path, on the CPU, with the capture replaced by a plain call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orpheus.codec import Codec, StreamState, decode_all
from orpheus.codec.checkpoint import Checkpoint, read_config
from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import OPEN_END, MaskEdges, RowEdges
from orpheus.codec.graphs import BATCHES, GraphedDecoder
from orpheus.codec.layers import fold
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import advance, choose_step
from orpheus.errors import SetupError
from orpheus.settings import Settings
from tests.support.random_snac import EXACT, PUBLISHED, random_codes, save_random_snac


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


def graphed(folder: Path, capture: object = call_again) -> GraphedDecoder:
    config = read_config(folder)
    return GraphedDecoder(
        config,
        fold(config, Checkpoint(folder)),
        noise=True,
        device=torch.device("cpu"),
        batches=(1, 2),
        capture=capture,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("lookahead", [2, 4, 6])
def test_the_first_frame_runs_in_captured_steps_alone(
    tmp_path: Path, lookahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = graphed(save_random_snac(tmp_path))
    decoder.warm_up()
    eager: list[int] = []
    step = Decoder.step

    def counted(self: Decoder, memory: Tensor, codes: Tensor, *rest: Sequence[int]) -> Tensor:
        eager.append(codes.shape[1])
        return step(self, memory, codes, *rest)

    monkeypatch.setattr(Decoder, "step", counted)
    state = StreamState(decoder, 1, lookahead)
    state.add_codes(random_codes(decoder, 70))
    (pcm,) = decode_all(decoder, [state])
    assert len(pcm) > 4 * decoder.hop
    assert eager == []


def test_the_first_frame_is_the_same_through_graphs(tmp_path: Path) -> None:
    folder = save_random_snac(tmp_path)
    decoders = graphed(folder), Decoder.load(folder)
    decoders[0].warm_up()
    pcm = []
    for decoder in decoders:
        state = StreamState(decoder, 1, 4)
        state.add_codes(random_codes(decoder, 14))
        pcm.append(decode_all(decoder, [state])[0])
    assert len(pcm[0]) == len(pcm[1]) == 4 * decoders[0].hop
    assert np.abs(pcm[0] - pcm[1]).max() < 1e-5


def test_a_graph_that_computes_nothing_is_refused(tmp_path: Path) -> None:
    def nothing(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        return lambda: None, torch.zeros_like(run())

    with pytest.raises(SetupError, match=r"compute nothing of use on cpu.*ORPHEUS_CODEC_DEVICE"):
        graphed(save_random_snac(tmp_path), nothing).warm_up()


def test_a_graph_that_leaves_another_memory_is_refused(tmp_path: Path) -> None:
    """Its first samples are those of the step all the same: they lie before the stream."""

    def twice(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        replay, out = call_again(run)
        return lambda: (replay(), replay()), out

    with pytest.raises(SetupError, match="compute nothing of use"):
        graphed(save_random_snac(tmp_path), twice).warm_up()


class Operations(TorchDispatchMode):
    """Every operation that runs while this is on, with its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, list[Tensor]]] = []

    def __torch_dispatch__(  # type: ignore[override]
        self, function: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        result = function(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
        self.done.append((str(function.overloadpacket), tensors))
        return result


@pytest.mark.parametrize("depthwise", [True, False])
def test_a_captured_step_stays_on_its_device_and_asks_the_host_for_nothing(
    tmp_path: Path, depthwise: bool
) -> None:
    """On the device "meta", which has shapes alone: as on a GPU, reading a value from it is an error."""
    device = torch.device("meta")
    folder = save_random_snac(tmp_path, depthwise=depthwise)
    decoder = Decoder.load(folder, device="meta")
    memory = decoder.new_memory(2)
    codes = torch.zeros(2, 4, 3, dtype=torch.int64, device=device)
    positions, ends = torch.zeros(2, 2, dtype=torch.int64, device=device)
    base = torch.zeros(len(decoder.network.blocks), 2, dtype=torch.int64, device=device)

    def run() -> Tensor:
        return decoder.run(memory, codes, MaskEdges(positions, ends, 4, decoder.tail + 1), base)

    with torch.inference_mode():
        run()  # makes the counters of the noise
        with Operations() as operations:
            out = run()
    assert out.shape == (2, 4 * decoder.hop)
    assert {tensor.device.type for _, tensors in operations.done for tensor in tensors} == {"meta"}
    convolutions = [tensors for name, tensors in operations.done if "conv" in name]
    assert len(convolutions) == (1 + 3 * len(decoder.network.blocks) if depthwise else 0)
    for image, weight, *_ in convolutions:  # else torch would give them to cuDNN
        assert suggest_memory_format(image) == suggest_memory_format(weight) == torch.contiguous_format


def test_more_streams_than_the_largest_graph_take_turns_in_it(tmp_path: Path) -> None:
    decoder = graphed(save_random_snac(tmp_path))
    decoder.warm_up()
    states = [StreamState(decoder, seed, 4) for seed in range(5)]
    for state in states:
        state.add_codes(random_codes(decoder, 4))  # half a frame: two latents
    chosen, count = choose_step(decoder, states)
    assert (chosen, count) == (states[:2], 2)
    advance(decoder, chosen, count)
    assert choose_step(decoder, states)[0] == states[2:4]


def test_a_gpu_that_is_full_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, **_: object) -> Decoder:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmany lines")

    monkeypatch.setattr(Decoder, "load", full)
    settings = Settings(_env_file=None, codec_device="cpu")  # type: ignore[call-arg]
    with pytest.raises(SetupError, match=r"does not fit the free memory of cpu.*ORPHEUS_STREAMS"):
        Codec.load(save_random_snac(tmp_path), settings)


def test_a_mask_serves_every_layer_of_its_rate() -> None:
    latents, longest = 4, 5
    positions, ends = [0, 3, 7, 20], [OPEN_END, 6, 7, OPEN_END]
    by_row = RowEdges(positions, ends, latents, longest)
    by_mask = MaskEdges(torch.tensor(positions), torch.tensor(ends), latents, longest)
    for rate in (1, 8, 64):
        for delay in (0, 1, rate, 3 * rate + 1, longest * rate):
            rows = torch.randn(latents * rate, len(positions), 3)
            expected = rows.clone()
            by_row.clear(expected, rate, delay)
            by_mask.clear(rows, rate, delay)
            assert torch.equal(rows, expected)
    assert len(by_mask._masks) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_on_the_last_gpu_share_their_memory(tmp_path: Path) -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    folder = save_random_snac(tmp_path, **PUBLISHED)

    def taken(batches: tuple[int, ...]) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(device)
        decoder = Decoder.load(folder, device=str(device))
        graphed = GraphedDecoder(decoder.config, decoder.network, noise=True, device=device, batches=batches)
        graphed.warm_up()  # compares every graph with the step it was captured from
        return torch.cuda.memory_reserved(device) - before

    largest = taken(BATCHES[-1:])
    assert taken(BATCHES) < 1.5 * largest  # with a pool of its own, each would keep as much as it once needed


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
