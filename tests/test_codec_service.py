"""Codec and CodecStream: the thread, awaited pushes, cancels, closes, failures, and checkpoints that cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orpheus.codec import Codec
from orpheus.codec.checkpoint import Checkpoint, read_shape
from orpheus.codec.offline import OfflineDecoder
from orpheus.errors import EngineError, SetupError, WeightsError
from orpheus.settings import Settings
from tests.test_codec_decoder import EMBEDDED, save_random_snac

EXACT = 1000


def codec_settings(**changes: object) -> Settings:
    return Settings(
        _env_file=None, **{"codec_device": "cpu", "lookahead": EXACT, "codec_reserve_ms": 0, **changes}
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_snac(tmp_path_factory.mktemp("service") / "tiny")


@pytest.fixture(scope="module")
def offline(folder: Path) -> OfflineDecoder:
    return OfflineDecoder.load(folder)


@pytest.fixture(scope="module")
def codec(folder: Path) -> Iterator[Codec]:
    codec = Codec.load(folder, codec_settings())
    yield codec
    codec.close()


def codes_of(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 16, count)


async def speak(codec: Codec, codes: NDArray[np.int64], seed: int, step: int = 7) -> NDArray[np.float32]:
    stream = codec.open(seed)
    pieces = []
    for start in range(0, len(codes), step):
        pieces.append(await stream.push(codes[start : start + step]))
    return np.concatenate([*pieces, await stream.finish()])


def test_sixteen_streams_at_once_each_get_their_own_offline_samples(
    codec: Codec, offline: OfflineDecoder
) -> None:
    codes = [codes_of(7 * (seed % 5) + 70, seed) for seed in range(16)]

    async def all_of_them() -> list[NDArray[np.float32]]:
        return await asyncio.gather(*(speak(codec, row, seed, 3 + seed) for seed, row in enumerate(codes)))

    for seed, pcm in enumerate(asyncio.run(all_of_them())):
        expected = offline.decode(codes[seed], seed=seed)
        assert pcm.shape == expected.shape
        assert np.abs(pcm - expected).max() < 1e-5
    assert codec.report()["open_streams"] == 0
    assert float(str(codec.report()["streams_per_step"])) > 1


def test_streams_of_no_one_and_two_frames_end_with_all_their_samples(codec: Codec) -> None:
    for frames in (0, 1, 2):
        pcm = asyncio.run(speak(codec, codes_of(7 * frames, 0), 0))
        assert pcm.dtype == np.float32
        assert pcm.shape == (frames * codec.samples_per_frame,)


def test_with_audio_in_hand_frames_wait_for_the_fourth(
    folder: Path, offline: OfflineDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.load(folder, codec_settings(codec_reserve_ms=1))
    codes = codes_of(7 * 80, 0)  # 80 frames of 48 samples: 2 ms each

    async def run() -> tuple[list[int], NDArray[np.float32]]:
        monkeypatch.setattr("orpheus.codec.service.time.monotonic", lambda: 0.0)  # nothing is ever played
        stream = codec.open(0)
        pieces = [await stream.push(codes[start : start + 7]) for start in range(0, len(codes), 7)]
        return [len(piece) for piece in pieces], np.concatenate([*pieces, await stream.finish()])

    sizes, pcm = asyncio.run(run())
    assert np.abs(pcm - offline.decode(codes)).max() < 1e-5
    assert sizes[-8:].count(0) == 6
    codec.close()


def test_silence_in_a_push_is_an_empty_array(codec: Codec) -> None:
    async def push_nothing() -> NDArray[np.float32]:
        return await codec.open(0).push([])

    assert asyncio.run(push_nothing()).shape == (0,)


@settings(max_examples=15, deadline=None)
@given(plan=st.lists(st.sampled_from(["push", "cancel", "wait"]), max_size=12), seed=st.integers(0, 99))
def test_a_cancelled_push_loses_no_sample(
    codec: Codec, offline: OfflineDecoder, plan: list[str], seed: int
) -> None:
    codes = codes_of(140, seed)

    async def run() -> NDArray[np.float32]:
        stream, pieces, start = codec.open(seed), [], 0
        for action in plan:
            push = asyncio.ensure_future(stream.push(codes[start : start + 5]))
            start += 5
            await asyncio.sleep(0 if action == "cancel" else 0.001)
            if action == "cancel":
                push.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                pieces.append(await push)
        pieces.append(await stream.push(codes[start:]))
        return np.concatenate([*pieces, await stream.finish()])

    pcm = asyncio.run(run())
    assert np.abs(pcm - offline.decode(codes, seed=seed)).max() < 1e-5


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_streams_that_close_at_any_moment_do_not_touch_the_others(
    codec: Codec, offline: OfflineDecoder, seed: int
) -> None:
    dice = random.Random(seed)

    async def leave() -> None:
        stream = codec.open(1)
        for _ in range(dice.randint(0, 4)):
            await stream.push(codes_of(7, 1))
        push = asyncio.ensure_future(stream.push(codes_of(70, 1)))
        await asyncio.sleep(dice.random() * 0.002)
        stream.close()
        stream.close()
        with contextlib.suppress(EngineError):  # or it was done before
            await push
        with pytest.raises(EngineError, match="closed"):
            await stream.push([1])

    async def run() -> list[NDArray[np.float32]]:
        stayers = [speak(codec, codes_of(105, row), row) for row in range(3)]
        results = await asyncio.gather(*stayers, *(leave() for _ in range(4)))
        return [result for result in results if result is not None]

    for row, pcm in enumerate(asyncio.run(run())):
        assert np.abs(pcm - offline.decode(codes_of(105, row), seed=row)).max() < 1e-5
    assert codec.report()["open_streams"] == 0


def test_closing_a_stream_frees_its_memory(codec: Codec) -> None:
    async def open_and_close() -> list[weakref.ref[torch.Tensor]]:
        streams = [codec.open(0) for _ in range(8)]
        for stream in streams:
            await stream.push(codes_of(21, 0))
        memories = [weakref.ref(stream._state.memory) for stream in streams if stream._state]
        assert len(memories) == codec.report()["open_streams"] == 8
        for stream in streams:
            stream.close()
        await asyncio.sleep(0.05)
        return memories

    memories = asyncio.run(open_and_close())
    gc.collect()
    assert [memory() for memory in memories] == [None] * 8


def test_a_wrong_code_names_the_setting_and_leaves_the_stream_usable(codec: Codec) -> None:
    async def run() -> int:
        stream = codec.open(0)
        with pytest.raises(EngineError, match=r"Code 16 .*do not fit this codec: set ORPHEUS_CODEC"):
            await stream.push([0, 16])
        first = await stream.push(codes_of(7, 0))
        return len(first) + len(await stream.finish())

    assert asyncio.run(run()) == codec.samples_per_frame


def test_a_failure_in_the_thread_reaches_the_callers_and_the_thread_serves_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.load(folder, codec_settings())

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    async def run() -> None:
        stream = codec.open(0)
        with monkeypatch.context() as patch:
            patch.setattr(codec.decoder, "step", broken)
            with pytest.raises(EngineError, match="out of memory"):
                await stream.push(codes_of(14, 0))
        with pytest.raises(EngineError, match="out of memory"):
            await stream.push(codes_of(14, 0))
        assert len(await speak(codec, codes_of(14, 0), 0)) == 2 * codec.samples_per_frame

    asyncio.run(run())
    codec.close()


def test_the_event_loop_runs_on_while_a_step_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.load(folder, codec_settings())
    step = codec.decoder.step

    def slow(*arguments: object) -> object:
        time.sleep(0.2)
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(codec.decoder, "step", slow)

    async def run() -> int:
        push = asyncio.ensure_future(codec.open(0).push(codes_of(7, 0)))
        turns = 0
        while not push.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(run()) > 20
    codec.close()


def test_closing_the_codec_ends_what_is_pending_and_its_thread(folder: Path) -> None:
    threads = threading.active_count()
    codec = Codec.load(folder, codec_settings(codec_gather_ms=50))

    async def run() -> None:
        codec.open(1)
        other = codec.open(1)
        push = asyncio.ensure_future(codec.open(0).push(codes_of(7, 0)))
        await asyncio.sleep(0)
        await asyncio.to_thread(codec.close)
        with contextlib.suppress(EngineError):  # or it was done before
            await push
        with pytest.raises(EngineError, match="closed"):
            await other.push([0])
        with pytest.raises(EngineError, match="closed"):
            codec.open(0)

    asyncio.run(run())
    codec.close()
    assert threading.active_count() <= threads


def test_the_report_says_what_it_runs_on(codec: Codec) -> None:
    report = codec.report()
    assert report["device"] == "cpu"
    assert report["threads"] == torch.get_num_threads()
    assert report["state_bytes_per_stream"] == codec.decoder.floats * 4


def test_the_embedded_codec_loads_with_the_default_settings() -> None:
    codec = Codec.load(EMBEDDED, codec_settings(lookahead=4))
    assert (codec.sample_rate, codec.hop, codec.codes, codec.samples_per_frame) == (24000, 512, 512, 2048)
    pcm = asyncio.run(speak(codec, codes_of(7 * 6, 0), 0))
    assert pcm.shape == (6 * 2048,)
    codec.close()


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "No config.json in .*ORPHEUS_CODEC"),
        (lambda folder: (folder / "config.json").write_text("{"), "no SNAC configuration .*Fetch it again"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no SNAC configuration .*Fetch it again"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), "No pytorch_model.bin in .*ORPHEUS_CODEC"),
        (
            lambda folder: (folder / "pytorch_model.bin").write_bytes(b"<html>"),
            "cannot be read .*Fetch it again",
        ),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b""), "cannot be read .*Fetch it again"),
        (lambda folder: torch.save([1], folder / "pytorch_model.bin"), "holds no weights by name"),
        (lambda folder: torch.save({}, folder / "pytorch_model.bin"), "should be .* found nothing"),
        (lambda folder: edit_config(folder, attn_window_size=32), "attention .*attn_window_size 32"),
        (lambda folder: edit_config(folder, vq_strides=[8, 4, 2, 1]), "vq_strides .*seven tokens"),
        (lambda folder: edit_config(folder, decoder_rates=[4, 1]), "decoder_rates .* must be 2 or more"),
        (lambda folder: edit_config(folder, decoder_rates=[]), "decoder_rates .* must be 2 or more"),
        (lambda folder: edit_config(folder, decoder_dim=64), "does not fit its config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_says_why_in_one_sentence(
    damage: object, sentence: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=sentence) as error:
        Codec.load(copy, codec_settings())
    assert "\n" not in str(error.value)


def test_a_pickle_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    torch.save({"decoder": threading.Event}, copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read"):
        Codec.load(copy, codec_settings())


def test_older_checkpoints_with_weight_g_and_weight_v_load_the_same(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    torch.save(old, copy / "pytorch_model.bin")
    name = "decoder.model.1.weight"
    shape = read_shape(folder)
    wanted = (shape.channels, shape.latent_channels, 1)
    assert torch.equal(
        Checkpoint(copy).take_normed(name, *wanted), Checkpoint(folder).take_normed(name, *wanted)
    )


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "nonsense:1", "mps"])
def test_a_device_that_is_not_there_is_a_setup_error(name: str, folder: Path) -> None:
    with pytest.raises(SetupError, match="ORPHEUS_CODEC_DEVICE"):
        Codec.load(folder, codec_settings(codec_device=name))
