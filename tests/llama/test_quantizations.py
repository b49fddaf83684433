"""A model of fewer bits, as its maker or llama.cpp quantized it, is served like any other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.quantization import (
    QUANTIZATIONS,
    agreement,
    distributions,
    quantize,
    speech_tokens,
    tensor_types,
)
from orpheus import embedded
from orpheus.llama.engine import Engine
from orpheus.tts.frames import FrameAssembler
from orpheus.vocabulary import SLOTS
from tests.support.llama import collect, completion, engine_of


@pytest.fixture(scope="module", params=["Q4_K_M", "Q2_K"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / f"{request.param}.gguf"
    quantize(embedded.MODEL, path, QUANTIZATIONS[request.param])
    return path


def test_it_makes_whole_frames_and_keeps_a_seed_as_it_says(quantized: Path) -> None:
    async def run(engine: Engine) -> list[list[int]]:
        async def asked(seed: int) -> list[int]:
            return await collect(engine.submit(completion(engine, tokens=6 * SLOTS, seed=seed)))

        alone = await asked(1)
        together = await asyncio.gather(*map(asked, (1, 2, 3)))
        if engine.load_report()["batch_invariant"]:
            assert together[0] == alone
        return [alone, *together]

    with engine_of(quantized) as engine:
        for numbers in asyncio.run(run(engine)):
            frames = FrameAssembler()
            frames.assemble(numbers)
            assert (frames.frames, frames.resyncs) == (6, 0)


def test_rows_that_no_block_of_256_divides_get_another_type(quantized: Path) -> None:
    """The embedded voice's feed-forward is 704 wide."""
    types = tensor_types(quantized)
    name = quantized.stem[:4]
    assert name in types
    assert {"Q4_K": "Q5_0", "Q2_K": "Q4_0"}[name] in types


@pytest.mark.slow
def test_fewer_bits_agree_less_with_what_they_were_made_from(quantized: Path) -> None:
    spoken = [(prompt, tokens[: 4 * SLOTS]) for prompt, tokens in speech_tokens(embedded.MODEL)[:2]]
    theirs = distributions(embedded.MODEL, spoken)
    same, divergence = agreement(distributions(quantized, spoken), theirs)
    assert agreement(theirs, theirs) == (1.0, 0.0)
    assert 0.3 < same < 1
    assert 0.001 < divergence < 2
