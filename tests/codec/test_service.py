"""Codec and CodecStream: awaited pushes, cancels, closes, and wrong codes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orpheus import embedded
from orpheus.codec import Codec, Decoder
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.service import CodecStream
from orpheus.codec.stream import StreamState, advance
from orpheus.errors import EngineError
from orpheus.settings import load_settings
from tests.support.random_snac import codes_of, load, speak


@pytest.fixture(scope="module")
def offline(folder: Path) -> OfflineDecoder:
    return OfflineDecoder.load(folder)


@pytest.fixture(scope="module")
def codec(folder: Path) -> Iterator[Codec]:
    codec = load(folder)
    yield codec
    codec.close()


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


def test_streams_of_zero_one_and_two_frames_end_with_all_their_samples(codec: Codec) -> None:
    for frames in (0, 1, 2):
        pcm = asyncio.run(speak(codec, codes_of(7 * frames, 0), 0))
        assert pcm.dtype == np.float32
        assert pcm.shape == (frames * codec.samples_per_frame,)


def test_while_the_listener_has_audio_frames_are_decoded_four_at_a_time(
    folder: Path, offline: OfflineDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(folder, reserve_s=0.001)
    codes = codes_of(7 * 80, 0)  # 80 frames of 48 samples: 2 ms each

    async def run() -> tuple[list[int], NDArray[np.float32]]:
        stopped = SimpleNamespace(
            monotonic=lambda: 0.0
        )  # for the playout clock alone: nothing is ever played
        monkeypatch.setattr("orpheus.playout.time", stopped)
        stream = codec.open(0)
        chunks = [await stream.decode(codes[start : start + 7]) for start in range(0, len(codes), 7)]
        return [len(chunk) for chunk in chunks], np.concatenate([*chunks, await stream.finish()])

    sizes, pcm = asyncio.run(run())
    assert np.abs(pcm - offline.decode(codes)).max() < 1e-5
    assert sizes[-8:].count(0) == 6
    codec.close()


def test_a_push_of_nothing_returns_an_empty_array(codec: Codec) -> None:
    async def push_nothing() -> NDArray[np.float32]:
        return await codec.open(0).decode([])

    assert asyncio.run(push_nothing()).shape == (0,)


@settings(max_examples=15, deadline=None)
@given(plan=st.lists(st.sampled_from(["push", "cancel", "wait"]), max_size=12), seed=st.integers(0, 99))
def test_a_cancelled_push_loses_no_sample(
    codec: Codec, offline: OfflineDecoder, plan: list[str], seed: int
) -> None:
    codes = codes_of(140, seed)

    async def run() -> NDArray[np.float32]:
        stream, chunks, start = codec.open(seed), [], 0
        for action in plan:
            push = asyncio.ensure_future(stream.decode(codes[start : start + 5]))
            start += 5
            await asyncio.sleep(0 if action == "cancel" else 0.001)
            if action == "cancel":
                push.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                chunks.append(await push)
        chunks.append(await stream.decode(codes[start:]))
        return np.concatenate([*chunks, await stream.finish()])

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
            await stream.decode(codes_of(7, 1))
        push = asyncio.ensure_future(stream.decode(codes_of(70, 1)))
        await asyncio.sleep(dice.random() * 0.002)
        stream.close()
        stream.close()
        with contextlib.suppress(EngineError):  # or it was done before
            await push
        with pytest.raises(EngineError, match="closed"):
            await stream.decode([1])

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
            await stream.decode(codes_of(21, 0))
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
            await stream.decode([0, 16])
        first = await stream.decode(codes_of(7, 0))
        return len(first) + len(await stream.finish())

    assert asyncio.run(run()) == codec.samples_per_frame


def test_the_report_says_what_it_runs_on(codec: Codec) -> None:
    report = codec.report()
    assert report["device"] == "cpu"
    assert report["threads"] == torch.get_num_threads()
    assert report["state_bytes_per_stream"] == codec.decoder.floats * 4


def test_the_embedded_codec_loads_with_the_default_settings() -> None:
    codec = Codec.load(embedded.CODEC, load_settings(codec_device="cpu"))
    assert (codec.sample_rate, codec.hop, codec.codes, codec.samples_per_frame) == (24000, 512, 4096, 2048)
    pcm = asyncio.run(speak(codec, codes_of(7 * 6, 0), 0))
    assert pcm.shape == (6 * 2048,)
    codec.close()


def test_what_gives_no_samples_yet_is_not_decoded_by_itself(folder: Path) -> None:
    codec = load(folder, lookahead=4)

    async def run() -> list[tuple[bool, object]]:
        stream, heard = codec.open(0), []
        for number in range(8):
            pcm = await stream.decode(codes_of(7, number))
            heard.append((bool(len(pcm)), codec.report()["steps"]))
        return heard

    given, steps = zip(*asyncio.run(run()), strict=True)
    codec.close()
    assert given[:3] == (False, True, False), "the first frame takes two, and the exact samples trail by more"
    assert given[-2:] == (True, True)
    for number in range(1, 8):
        assert given[number] or steps[number] == steps[number - 1]


def test_steps_of_a_wide_codec_are_half_as_long_while_a_listener_waits_for_the_first_audio(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(folder, lookahead=4)
    advanced: list[int] = []

    def note(decoder: Decoder, states: Sequence[StreamState], count: int) -> None:
        advanced.append(len(states) * count)
        advance(decoder, states, count)

    async def together(streams: list[CodecStream], codes: int) -> int:
        """The longest step in which so many codes of each are decoded."""
        advanced.clear()
        with codec._changed:  # all are queued before the thread looks
            tasks = [asyncio.create_task(stream.decode(codes_of(codes, 1))) for stream in streams]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return max(advanced)

    async def run() -> list[int]:
        streams = [codec.open(seed) for seed in range(10)]
        return [await together(streams, codes) for codes in (14, 28)]

    monkeypatch.setattr("orpheus.codec.decoder.WIDE_CHANNELS", codec.decoder.config.channels)
    codec.decoder = Decoder.load(folder)
    monkeypatch.setattr("orpheus.codec.service.advance", note)
    assert asyncio.run(run()) == [16, 32]
    codec.close()


def test_a_first_frame_comes_before_those_who_have_audio_and_after_those_who_run_dry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(folder, lookahead=4)
    now = SimpleNamespace(s=0.0)
    clock = SimpleNamespace(monotonic=lambda: now.s)
    monkeypatch.setattr("orpheus.playout.time", clock)
    monkeypatch.setattr("orpheus.codec.service.time", clock)
    monkeypatch.setattr(codec.decoder, "max_latents_before_first", 4)
    order: list[str] = []

    async def run() -> None:
        ahead, dry, new = (codec.open(seed) for seed in range(3))
        await dry.decode(codes_of(14, 0))
        now.s = 1.0  # what `dry` got, two milliseconds, is over
        await ahead.decode(codes_of(7 * 90, 0))
        with codec._changed:  # all three are queued before the thread looks
            tasks = [
                asyncio.create_task(note(name, stream, count))
                for name, stream, count in (("ahead", ahead, 28), ("new", new, 14), ("dry", dry, 28))
            ]
            await asyncio.sleep(0)
            assert len(codec._queue) == len(tasks)
        await asyncio.gather(*tasks)

    async def note(name: str, stream: CodecStream, count: int) -> None:
        await stream.decode(codes_of(count, 1))
        order.append(name)

    asyncio.run(run())
    codec.close()
    assert order == ["dry", "new", "ahead"]
