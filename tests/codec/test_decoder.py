"""The streaming decoder against the snac package's own decode."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from snac import SNAC

from orpheus import embedded
from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import OPEN_END, RowEdges
from orpheus.codec.layers import rounds_alike
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import StreamState, decode_all
from orpheus.errors import EngineError
from orpheus.vocabulary import SLOTS
from tests.support.random_snac import EXACT, random_codes, save_random_snac

VARIANTS: dict[str, dict[str, object]] = {
    "odd and even strides": {},
    "full convolutions": {"depthwise": False, "decoder_rates": [2, 5]},
    "no noise layers": {"noise": False, "decoder_rates": [3, 3, 2]},
    "one block": {"decoder_rates": [7]},
    "alphas all one": {"alphas": False},
    "Orpheus' strides": {"decoder_rates": [8, 8, 4, 2]},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for each other slow tiny layers down on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_snac(tmp_path_factory.mktemp("snac") / "tiny")


@pytest.fixture(scope="session")
def tiny_pair(tiny: Path) -> tuple[Decoder, OfflineDecoder]:
    return Decoder.load(tiny), OfflineDecoder.load(tiny)


@pytest.fixture(scope="session")
def embedded_pair() -> tuple[Decoder, OfflineDecoder]:
    return Decoder.load(embedded.CODEC), OfflineDecoder.load(embedded.CODEC)


def stream(
    decoder: Decoder, codes: NDArray[np.int64], cuts: list[int], *, seed: int = 0, lookahead: int = EXACT
) -> NDArray[np.float32]:
    """Decode one stream, pushed in portions cut at `cuts`."""
    state = StreamState(decoder, seed, lookahead)
    samples, start = [], 0
    for cut in [*sorted(cuts), len(codes)]:
        state.add_codes(codes[start : max(start, cut)])
        start = max(start, cut)
        samples += decode_all(decoder, [state])
    state.finish()
    return np.concatenate([*samples, *decode_all(decoder, [state])])


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_any_snac_without_attention_equals_the_packages_decode(
    name: str, noise: bool, tmp_path: Path
) -> None:
    folder = save_random_snac(tmp_path, **VARIANTS[name])
    decoder, offline = Decoder.load(folder, noise=noise), OfflineDecoder.load(folder, noise=noise)
    codes = random_codes(decoder, 7 * 9)
    expected = offline.decode(codes, seed=3)
    assert np.abs(stream(decoder, codes, [], seed=3) - expected).max() < 1e-5
    assert np.abs(stream(decoder, codes, list(range(0, 63, 4)), seed=3) - expected).max() < 1e-5


def test_without_noise_it_equals_an_untouched_snac(tiny: Path) -> None:
    decoder = Decoder.load(tiny, noise=False)
    model = SNAC.from_pretrained(str(tiny)).eval()
    for module in model.modules():
        if type(module).__name__ == "NoiseBlock":
            torch.nn.init.zeros_(module.linear.parametrizations.weight.original0)
    codes = random_codes(decoder, 70)
    frames = torch.from_numpy(codes.reshape(-1, 7))
    rows = [frames[:, :1], frames[:, [1, 4]], frames[:, [2, 3, 5, 6]]]
    with torch.inference_mode():
        expected = model.decode([row.reshape(1, -1) for row in rows])[0, 0].numpy()
    assert np.abs(stream(decoder, codes, [10, 33]) - expected).max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(length=st.integers(0, 120), cuts=st.lists(st.integers(0, 120), max_size=8), seed=st.integers())
def test_any_split_of_any_length_gives_the_offline_samples(
    tiny_pair: tuple[Decoder, OfflineDecoder], length: int, cuts: list[int], seed: int
) -> None:
    decoder, offline = tiny_pair
    codes = random_codes(decoder, length)
    pcm, expected = stream(decoder, codes, cuts, seed=seed), offline.decode(codes, seed=seed)
    assert pcm.shape == expected.shape
    assert np.abs(pcm - expected).max(initial=0) < 1e-5


@settings(max_examples=8, deadline=None)
@given(frames=st.integers(0, 8), cuts=st.lists(st.integers(0, 56), max_size=4))
def test_the_embedded_codec_is_exact(
    embedded_pair: tuple[Decoder, OfflineDecoder], frames: int, cuts: list[int]
) -> None:
    decoder, offline = embedded_pair
    codes = random_codes(decoder, 7 * frames)
    expected = offline.decode(codes, seed=5)
    assert np.abs(stream(decoder, codes, cuts, seed=5) - expected).max(initial=0) < 1e-5


@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(0, 80), min_size=1, max_size=5), splits=st.randoms(use_true_random=False))
def test_streams_decoded_together_do_not_affect_each_other(
    tiny_pair: tuple[Decoder, OfflineDecoder], lengths: list[int], splits: random.Random
) -> None:
    decoder, offline = tiny_pair
    dice = random.Random(splits.randint(0, 1 << 32))
    codes = [random_codes(decoder, length, seed) for seed, length in enumerate(lengths)]
    states = [StreamState(decoder, seed, EXACT) for seed in range(len(lengths))]
    pcm: list[list[NDArray[np.float32]]] = [[] for _ in lengths]
    fed = [0] * len(lengths)
    while not all(state.finished for state in states):
        for row, state in enumerate(states):
            if state.finished or dice.random() < 0.3:
                continue
            count = dice.randint(1, 30)
            state.add_codes(codes[row][fed[row] : fed[row] + count])
            fed[row] += count
            if fed[row] >= lengths[row]:
                state.finish()
        for row, new in enumerate(decode_all(decoder, states)):
            pcm[row].append(new)
    for row, samples in enumerate(pcm):
        expected = offline.decode(codes[row], seed=row)
        got = np.concatenate(samples)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max(initial=0) < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(0, 150),
    cuts=st.lists(st.integers(0, 150), max_size=8),
    lookahead=st.integers(0, 25),
)
def test_an_early_first_frame_changes_nothing_after_it(
    tiny_pair: tuple[Decoder, OfflineDecoder], length: int, cuts: list[int], lookahead: int
) -> None:
    decoder, offline = tiny_pair
    codes = random_codes(decoder, length)
    pcm, expected = stream(decoder, codes, cuts, lookahead=lookahead), offline.decode(codes)
    assert pcm.shape == expected.shape
    first = 4 * decoder.hop
    assert np.abs(pcm[first:] - expected[first:]).max(initial=0) < 1e-5


@pytest.mark.parametrize("lookahead", [4, EXACT])
def test_the_same_codes_give_the_same_s16_samples_however_chunked_and_batched(
    embedded_pair: tuple[Decoder, OfflineDecoder], lookahead: int
) -> None:
    decoder, _ = embedded_pair
    codes = random_codes(decoder, 7 * 12)
    alone = np.round(stream(decoder, codes, [], seed=1, lookahead=lookahead) * 32767)
    by_frame = np.round(stream(decoder, codes, list(range(0, 84, 7)), seed=1, lookahead=lookahead) * 32767)
    states = [StreamState(decoder, 1, lookahead) for _ in range(3)]
    for state in states:
        state.add_codes(codes)
        state.finish()
    batched = np.round(decode_all(decoder, states)[1] * 32767)
    # Bytes are equal where MKL and oneDNN are as measured in the benchmark; one step in 65,536 elsewhere.
    assert np.abs(by_frame - alone).max() <= 1
    assert np.abs(batched - alone).max() <= 1


def test_a_matrix_is_stored_so_that_this_processor_rounds_few_rows_like_many(
    embedded_pair: tuple[Decoder, OfflineDecoder],
) -> None:
    """By output, which is faster, unless only by input a seed gives the same samples in any chunks."""
    decoder, _ = embedded_pair
    for block in decoder.network.blocks:
        for weight in (block.near, block.far, *(unit.point for unit in block.units)):
            by_output = weight.t().contiguous().t()
            assert rounds_alike(weight) or not rounds_alike(by_output)
            assert (weight.stride() == by_output.stride()) == rounds_alike(by_output)


def test_the_first_frame_leaves_after_two_at_44_db(
    embedded_pair: tuple[Decoder, OfflineDecoder],
) -> None:
    decoder, offline = embedded_pair
    distances = []
    for seed in range(8):
        # As the embedded voice does: the second of a pair from the second half of its codebook.
        frames = np.random.default_rng(seed).integers(0, decoder.config.codes // 2, (8, SLOTS))
        frames[:, [3, 4, 6]] += decoder.config.codes // 2
        codes = frames.reshape(-1)
        state = StreamState(decoder, 0, 4)
        state.add_codes(codes[:7])
        assert [len(pcm) for pcm in decode_all(decoder, [state])] == [0]
        state.add_codes(codes[7:14])
        (early,) = decode_all(decoder, [state])
        exact = offline.decode(codes)[:2048]
        assert len(early) == 2048
        distances.append(10 * np.log10(np.square(exact).sum() / np.square(early - exact).sum()))
    assert np.median(distances) > 44


def test_with_a_lookahead_of_ten_the_first_exact_samples_leave_after_18_tokens(
    embedded_pair: tuple[Decoder, OfflineDecoder],
) -> None:
    decoder, offline = embedded_pair
    codes = random_codes(decoder, 28)
    state = StreamState(decoder, 0, 10)
    state.add_codes(codes[:14])
    assert [len(pcm) for pcm in decode_all(decoder, [state])] == [0]
    state.add_codes(codes[14:18])
    (first,) = decode_all(decoder, [state])
    assert len(first) == 363
    assert np.abs(first - offline.decode(codes)[:363]).max() < 1e-5


def test_a_half_frame_at_the_end_is_decoded_and_anything_less_is_counted(
    tiny_pair: tuple[Decoder, OfflineDecoder],
) -> None:
    decoder, _ = tiny_pair
    for extra, latents, dropped in ((0, 4, 0), (3, 4, 3), (4, 6, 0), (6, 6, 2)):
        state = StreamState(decoder, 0, 10)
        state.add_codes(random_codes(decoder, 7 + extra))
        state.finish()
        assert [len(pcm) for pcm in decode_all(decoder, [state])] == [latents * decoder.hop]
        assert state.dropped == dropped


def test_a_code_that_the_codec_lacks_is_named(tiny_pair: tuple[Decoder, OfflineDecoder]) -> None:
    decoder, _ = tiny_pair
    for wrong in (16, -1, 4095):
        with pytest.raises(EngineError, match=f"Code {wrong} .*ORPHEUS_CODEC"):
            StreamState(decoder, 0, 4).add_codes([0, wrong])


def test_a_streams_memory_is_fixed(embedded_pair: tuple[Decoder, OfflineDecoder]) -> None:
    decoder, _ = embedded_pair
    state = StreamState(decoder, 0, 4)
    for _ in range(5):
        state.add_codes(random_codes(decoder, 70))
        decode_all(decoder, [state])
        assert state.memory.nbytes == decoder.floats * 4 < 150_000
        assert state.ready == 0


def test_a_beginning_costs_no_layer_it_has_not_reached_and_sounds_the_same(
    embedded_pair: tuple[Decoder, OfflineDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, _ = embedded_pair
    blocks = len(decoder.network.blocks)
    # The first two frames end before the later blocks, whose delay is longer; a company farther on reaches all.
    for positions, reached in (([0], 1), ([4], 1), ([0, 4], 1), ([8], blocks), ([0, 40], blocks)):
        edges = RowEdges(positions, [OPEN_END] * len(positions), 4, decoder.tail + 1)
        assert len(decoder._reached(edges)) == reached
    codes = random_codes(decoder, 7 * 8)
    by_frame = list(range(0, 56, 7))
    short = [stream(decoder, codes, by_frame, seed=2, lookahead=lookahead) for lookahead in (4, EXACT)]
    monkeypatch.setattr(RowEdges, "all_before", lambda *_: False)
    whole = [stream(decoder, codes, by_frame, seed=2, lookahead=lookahead) for lookahead in (4, EXACT)]
    assert all(np.array_equal(*pair) for pair in zip(short, whole, strict=True))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 100), max_size=9), lookahead=st.sampled_from([0, 2, 4, 7, EXACT]))
def test_it_is_known_which_codes_give_samples(
    tiny_pair: tuple[Decoder, OfflineDecoder], cuts: list[int], lookahead: int
) -> None:
    decoder, _ = tiny_pair
    state = StreamState(decoder, 0, lookahead)
    codes, start = random_codes(decoder, 100), 0
    for cut in sorted(cuts):
        gives = state.gives(cut - start)
        state.add_codes(codes[start:cut])
        (samples,) = decode_all(decoder, [state])
        assert gives == bool(len(samples))
        start = cut
