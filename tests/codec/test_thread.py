"""The codec's thread: it survives failures, leaves the event loop free, and ends with the codec."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import pytest
import torch

from orpheus.errors import EngineError, NotReady, OrpheusError
from tests.support.random_snac import codes_of, load, speak


def test_a_failure_in_the_thread_reaches_the_callers_and_the_thread_keeps_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(folder)

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    async def run() -> None:
        stream = codec.open(0)
        with monkeypatch.context() as patch:
            patch.setattr(codec.decoder, "step", broken)
            with pytest.raises(EngineError, match="out of memory"):
                await stream.decode(codes_of(140, 0))
        with pytest.raises(EngineError, match="out of memory"):
            await stream.decode(codes_of(140, 0))
        assert len(await speak(codec, codes_of(14, 0), 0)) == 2 * codec.samples_per_frame

    asyncio.run(run())
    codec.close()


def test_a_gpu_that_failed_ends_the_codec_and_tells_whoever_runs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[OrpheusError] = []
    codec = load(folder, on_death=told.append)

    def lost(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmany lines")

    async def run() -> None:
        stream, other = codec.open(0), codec.open(1)
        codec.check()
        monkeypatch.setattr(codec.decoder, "step", lost)
        for each in (stream, other):
            with pytest.raises(EngineError, match="illegal memory access"):
                await each.decode(codes_of(70, 0))
        with pytest.raises(EngineError, match="restart the server"):
            codec.open(2)
        with pytest.raises(NotReady, match="restart the server"):
            codec.check()

    asyncio.run(run())
    codec.close()
    assert [str(error) for error in told] == [
        "The codec's GPU failed (CUDA error: an illegal memory access was encountered): restart the server."
    ]


def test_a_gpu_that_others_filled_is_an_error_of_the_stream_that_opens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(folder)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(codec.decoder, "new_memory", full)
        with pytest.raises(EngineError, match="does not fit the free memory"):
            codec.open(0)
    codec.open(0).close()
    codec.close()


def test_the_event_loop_keeps_running_while_a_step_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(folder)
    step = codec.decoder.step

    def slow(*arguments: object) -> object:
        time.sleep(0.2)
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(codec.decoder, "step", slow)

    async def run() -> int:
        push = asyncio.ensure_future(codec.open(0).decode(codes_of(140, 0)))
        turns = 0
        while not push.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(run()) > 20
    codec.close()


def test_closing_the_codec_ends_pending_requests_and_its_thread(folder: Path) -> None:
    threads = threading.active_count()
    codec = load(folder, gather_s=0.05)

    async def run() -> None:
        codec.open(1)
        other = codec.open(1)
        push = asyncio.ensure_future(codec.open(0).decode(codes_of(140, 0)))
        await asyncio.sleep(0)
        await asyncio.to_thread(codec.close)
        with contextlib.suppress(EngineError):  # or it was done before
            await push
        with pytest.raises(EngineError, match="closed"):
            await other.decode(codes_of(140, 0))
        with pytest.raises(EngineError, match="closed"):
            codec.open(0)

    asyncio.run(run())
    codec.close()
    assert threading.active_count() <= threads
