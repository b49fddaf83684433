"""Tier 2 in front of a tier 1 that is not ours: the native llama-server, by nothing but a URL.

xllamacpp is llama-server in a wheel. vLLM is too large for a test: test_vllm.py has its rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from orpheus import embedded
from orpheus.ops.bench.rivals import CONTEXT_TOKENS, completions_server
from orpheus.sampling import Sampling
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.pipeline import RETRY_SEED
from orpheus.tts.served_model import listed_model
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import VOICES
from tests.support.live import served
from tests.support.waiting import eventually

BODY = {"input": "The boat drifted slowly down the river. It was late.", "voice": "tara", "seed": 1}


@pytest.fixture(scope="module")
def llama_server() -> Iterator[str]:
    with completions_server("llama_server", embedded.MODEL, streams=2, threads=1) as engine:
        yield engine.url


@pytest.fixture(scope="module")
def speech(llama_server: str) -> Iterator[httpx.Client]:
    """With neither model nor codec named: it tells by the vocabulary that it serves the embedded voice."""
    settings = load_settings(llama_endpoint=llama_server)
    with (
        served(create_app(SpeechService.over_http(settings))) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        eventually(lambda: client.get("/ready").status_code == 200, 60)
        yield client


def numbers(url: str, **sampling: Any) -> list[int]:
    async def generate() -> list[int]:
        source = HttpTokenSource(load_settings(llama_endpoint=url))
        generation = Generation(VOICES["tara"], BODY["input"][:39], Sampling(**sampling), 700)
        try:
            return [number async for chunk in source.generate(generation) for number in chunk.numbers]
        finally:
            await source.aclose()

    return asyncio.run(generate())


def test_the_repetition_penalty_reaches_it(llama_server: str) -> None:
    """It knows the field by another name; the makers of Orpheus require 1.1 or more."""
    assert numbers(llama_server, seed=1) != numbers(llama_server, seed=1, repetition_penalty=1.0)


@pytest.mark.parametrize("seed", [1, 2**31 - 1, 2**40 + 7, 2**64 - 1])
def test_another_try_is_another_take_and_a_seed_the_same(llama_server: str, seed: int) -> None:
    """It keeps 32 bits of a seed."""
    first = numbers(llama_server, seed=seed)
    assert numbers(llama_server, seed=seed) == first
    assert numbers(llama_server, seed=(seed + RETRY_SEED) % 2**64) != first


def test_it_tells_how_much_it_holds(llama_server: str) -> None:
    (card,) = httpx.get(f"{llama_server}/v1/models", trust_env=False).json()["data"]
    model = listed_model({"data": [card]}, load_settings())
    assert (model.codec, model.context_tokens) == ("embedded", CONTEXT_TOKENS)


def test_llama_server_speaks_as_tier_1(speech: httpx.Client) -> None:
    answer = speech.post("/v1/audio/speech", json=BODY | {"response_format": "pcm"})
    assert answer.status_code == 200, answer.text
    samples = np.frombuffer(answer.content, "<i2")
    assert len(samples) > 24_000
    assert np.abs(samples).max() > 1000


def test_its_tokens_are_whole_frames(speech: httpx.Client) -> None:
    speech.post("/v1/audio/speech", json=BODY)
    lines = dict(line.rsplit(" ", 1) for line in speech.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines["orpheus_speech_resyncs_total"]) == 0
