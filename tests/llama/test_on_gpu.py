"""Tier 1 with all its layers on whatever GPU llama.cpp has here, for a few frames each; skipped where it has none.

`make test-vulkan` runs them on Mesa's software device, which computes with Vulkan on the processor. What is compared is
compared with the same build on the processor: bits may differ, speech may not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from orpheus import embedded, llamacpp
from orpheus.errors import EngineError
from orpheus.gpu import find_gpu
from orpheus.llama.backend import Context, ContextOptions, Model
from orpheus.llama.batches import BatchRow
from orpheus.llama.engine import Engine
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.prompt_tokens import prompt_ids
from orpheus.ops.doctor import tier1
from orpheus.prompt import turn_text
from orpheus.settings import ALL_LAYERS, load_settings
from orpheus.tts.frames import FrameAssembler
from orpheus.vocabulary import SLOTS
from tests.support.live import running_pair
from tests.support.llama import collect, completion
from tests.support.waiting import until

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

CONFIG = EngineConfig(streams=4, waiting=8, threads=1, context_tokens=512)
FRAMES = 3
CLOSE = 0.02  # nats; one bit fewer a weight (Q6_K) makes 0.03


@pytest.fixture(scope="module", autouse=True)
def device() -> str:
    """Its name. The embedded voice is quick enough anywhere."""
    gpu = find_gpu()
    if gpu is None:
        pytest.skip("llama.cpp has no GPU here: make test-vulkan brings a software device")
    return gpu.name


@contextmanager
def engine_on_gpu(**sizes: Any) -> Iterator[Engine]:
    engine = Engine.open(embedded.MODEL, dataclasses.replace(CONFIG, **sizes), gpu_layers=ALL_LAYERS)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_on_gpu() as opened:
        yield opened


@contextmanager
def context_of(layers: int, **options: Any) -> Iterator[tuple[Context, list[int]]]:
    """A context of four sequences, and the ids of a prompt."""
    model = Model(embedded.MODEL, layers)
    sizes = ContextOptions(sequences=4, context_tokens=256, batch_tokens=256, outputs=4, threads=1)
    context = Context(model, dataclasses.replace(sizes, **options))
    try:
        yield context, list(prompt_ids(model, turn_text("tara", "The boat drifted.")))
    finally:
        context.close()
        model.close()


def log_probabilities(context: Context, rows: list[BatchRow]) -> NDArray[np.float64]:
    """(rows, vocabulary) after one decode."""
    assert context.decode(rows) == 0
    logits = context.logits(len(rows)).astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def divergence(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Kullback and Leibler's, in nats."""
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=1).max())


def test_all_layers_are_on_the_gpu(engine: Engine, device: str) -> None:
    told = engine.load_report()["device"]
    assert told.startswith(f"{device} (")
    layers, of_layers = told.split(", ")[-1].removesuffix(" layers").split(" of ")
    assert layers == of_layers


def test_whole_frames_are_sampled(engine: Engine) -> None:
    numbers = asyncio.run(_collected(engine, seed=1))
    frames = FrameAssembler()
    frames.assemble(numbers)
    assert (frames.frames, frames.resyncs) == (FRAMES, 0)


async def _collected(engine: Engine, **sampling: Any) -> list[int]:
    return await collect(engine.submit(completion(engine, tokens=FRAMES * SLOTS, **sampling)))


def test_the_gpu_computes_what_the_processor_does() -> None:
    found = []
    for layers in (0, ALL_LAYERS):
        with context_of(layers) as (context, prompt):
            after_prompt = log_probabilities(context, [BatchRow(0, 0, tuple(prompt), True)])
            token = int(after_prompt[0].argmax()) if not found else found[0][2]
            after_token = log_probabilities(context, [BatchRow(0, len(prompt), (token,), True)])
            found.append((after_prompt, after_token, token))
    (prompt_there, token_there, _), (prompt_here, token_here, _) = found
    assert divergence(prompt_here, prompt_there) < CLOSE
    assert divergence(token_here, token_there) < CLOSE


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_either_type_of_cache_speaks_with_flash_attention(kv_type: Literal["f16", "q8_0"]) -> None:
    with llamacpp.listening() as told, engine_on_gpu(kv_type=kv_type) as engine:
        frames = FrameAssembler()
        frames.assemble(asyncio.run(_collected(engine, seed=2)))
    assert (frames.frames, frames.resyncs) == (FRAMES, 0)
    assert [line for line in told if re.search(r"flash.att\w* .*enabled", line, re.IGNORECASE)]


def test_a_cache_of_eight_bits_is_close_to_one_of_sixteen() -> None:
    found = []
    for kv_type in ("f16", "q8_0"):
        with context_of(ALL_LAYERS, kv_type=kv_type) as (context, prompt):
            log_probabilities(context, [BatchRow(0, 0, tuple(prompt), True)])
            found.append(log_probabilities(context, [BatchRow(0, len(prompt), (prompt[-1],), True)]))
    assert divergence(found[1], found[0]) < CLOSE


def test_a_sequence_that_was_moved_goes_on_as_if_it_had_not_been() -> None:
    with context_of(ALL_LAYERS) as (context, prompt):
        for sequence in (0, 3):
            log_probabilities(context, [BatchRow(sequence, 0, tuple(prompt), True)])
        context.free(0)
        context.move(3, 0)
        moved = log_probabilities(context, [BatchRow(0, len(prompt), (prompt[-1],), True)])
        log_probabilities(context, [BatchRow(1, 0, tuple(prompt), True)])
        stayed = log_probabilities(context, [BatchRow(1, len(prompt), (prompt[-1],), True)])
    assert divergence(moved, stayed) < CLOSE


def test_streams_that_end_at_different_times_are_packed_and_stay_whole(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to end leave holes, which later ones are moved into."""
    moved: list[tuple[int, int]] = []
    context = engine._steps._context
    assert context is not None
    move = context.move
    monkeypatch.setattr(context, "move", lambda *ids: (moved.append(ids), move(*ids)))

    async def run() -> list[list[int]]:
        lengths = [1, 2, 1, 4, 3, 4]
        streams = [
            engine.submit(completion(engine, tokens=frames * SLOTS, seed=number))
            for number, frames in enumerate(lengths)
        ]
        found = await asyncio.gather(*map(collect, streams))
        assert [len(numbers) // SLOTS for numbers in found] == lengths
        return found

    for numbers in asyncio.run(run()):
        frames = FrameAssembler()
        frames.assemble(numbers)
        assert frames.resyncs == 0
    assert moved


def test_a_stream_that_is_left_is_freed_and_the_others_go_on(engine: Engine) -> None:
    async def run() -> None:
        left = engine.submit(completion(engine, tokens=400, seed=1))
        stays = engine.submit(completion(engine, tokens=4 * SLOTS, seed=2))
        await anext(left)
        await left.aclose()
        assert len(await collect(stays)) == 4 * SLOTS
        await until(lambda: engine.load_report()["active"] == 0)

    asyncio.run(run())


def test_a_context_that_was_lost_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(engine: Engine) -> None:
        context = engine._steps._context
        assert context is not None

        def broken(rows: list[BatchRow]) -> int:
            raise EngineError("llama.cpp could not decode (status -3).")

        stream = engine.submit(completion(engine, tokens=10 * SLOTS))
        await anext(stream)
        monkeypatch.setattr(context, "decode", broken)
        with pytest.raises(EngineError, match="status -3"):
            await collect(stream)
        assert len(await _collected(engine, seed=3)) == FRAMES * SLOTS
        assert engine.stats.reloads == 1

    with engine_on_gpu() as engine:
        asyncio.run(run(engine))


def test_a_seed_speaks_alike_twice_and_in_company_if_that_is_claimed(engine: Engine) -> None:
    async def run() -> tuple[list[int], list[int], list[int]]:
        alone = await _collected(engine, seed=7)
        again = await _collected(engine, seed=7)
        together = await asyncio.gather(*(_collected(engine, seed=seed) for seed in (7, 8, 9, 10)))
        return alone, again, together[0]

    alone, again, in_company = asyncio.run(run())
    assert alone == again
    if engine.load_report()["batch_invariant"]:
        assert alone == in_company


def test_the_doctor_tells_that_tier_1_is_on_the_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tier1, "MEASURE_S", 8.0
    )  # a software device makes a frame in 0.3 s, or in seconds if busy
    monkeypatch.setattr(tier1, "TOKENS_PER_S", 0.1)
    found = list(tier1.engine(load_settings(model="embedded", streams=2, context_tokens=512)))
    assert found[0].status == "passed"
    assert f"on the {device} (" in found[0].text
    assert "tokens a second" in found[0].text


def test_tier_2_speaks_a_sentence_through_it(device: str, tmp_path: Path) -> None:
    with running_pair(tmp_path, ORPHEUS_STREAMS="2", ORPHEUS_CONTEXT_TOKENS="512") as pair:
        told = httpx.get(f"{pair.llama_url}/health", timeout=30).json()["device"]
        assert told.startswith(device)
        body = {"input": "The boat drifted.", "voice": "tara", "response_format": "pcm", "seed": 1}
        answer = httpx.post(f"{pair.url}/v1/audio/speech", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    samples = np.frombuffer(answer.content, "<i2")
    assert 0.5 < len(samples) / 24_000 < 6
    assert np.abs(samples).max() > 3000
