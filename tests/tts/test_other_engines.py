"""Tier 2 in front of a tier 1 that is not ours: the native llama-server, by nothing but a URL.

xllamacpp is llama-server in a wheel. vLLM speaks the same protocol (test_token_source.py has its ways of answering) and
needs a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from orpheus import embedded
from orpheus.ops.bench.rivals import completions_server
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from tests.support.live import served

BODY = {"input": "The boat drifted slowly down the river. It was late.", "voice": "tara", "seed": 1}


@pytest.fixture(scope="module")
def speech() -> Iterator[httpx.Client]:
    with completions_server("llama_server", embedded.MODEL, streams=2, threads=1) as engine:
        settings = load_settings(model="embedded", codec="embedded", llama_endpoint=engine.url)
        with (
            served(create_app(SpeechService.over_http(settings))) as url,
            httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
        ):
            deadline = time.monotonic() + 60
            while client.get("/ready").status_code != 200:
                assert time.monotonic() < deadline, client.get("/ready").text
                time.sleep(0.1)
            yield client


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
