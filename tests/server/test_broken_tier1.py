"""Whatever tier 1 sends, no front takes it for a complete answer, none hangs, and none tells where tier 1 is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks.faults.broken_tier1 import ENDS, FAULTS, HANGS, BrokenTier1, Fault, sends
from benchmarks.faults.fronts import FRONTS, HTTP_FRONTS
from orpheus.http import refusals
from orpheus.tts import pipeline, token_source
from tests.support.upstream import whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
STALL_S = 0.3
SOON_S = 25.0


@pytest.fixture(scope="module")
def _server() -> Iterator[BrokenTier1]:
    with BrokenTier1().served() as broken:
        yield broken


@pytest.fixture
def broken(_server: BrokenTier1, monkeypatch: pytest.MonkeyPatch) -> BrokenTier1:
    monkeypatch.setattr(token_source, "STALL_TIMEOUT_S", STALL_S)
    monkeypatch.setattr(refusals, "ERROR_BODY_TIMEOUT_S", STALL_S)
    monkeypatch.setattr(pipeline, "CAPACITY_WAIT_S", STALL_S)
    _server.fault = Fault(sends(*whole()))
    return _server


NAMED = ("deep JSON", "a numeric text", "text in usage", "bad gzip", "a proxy's page")
NAMED += ("429 with Retry-After: ²", "429 with Retry-After: 5,000 digits")
QUICK = {*ENDS, *HANGS, *NAMED}  # the others differ from these only before they reach a front


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAULTS]
)
def test_every_front_fails_visibly_and_soon(speech: Start, broken: BrokenTier1, name: str) -> None:
    client = speech(
        keep=True, llama_endpoint=broken.url, max_tokens=140
    )  # sockets send at the pace of speech
    broken.fault = FAULTS[name]
    started_s = time.monotonic()
    with ThreadPoolExecutor(len(FRONTS)) as at_once:
        outcomes = {front: at_once.submit(listen, client) for front, listen in FRONTS.items()}
    assert time.monotonic() - started_s < SOON_S
    for front, outcome in outcomes.items():
        heard = outcome.result()
        assert not heard.complete, front
        assert heard.message, front
        assert broken.url.removeprefix("http://") not in heard.message, front
        if front in HTTP_FRONTS and heard.status != 200:
            assert heard.status in broken.fault.statuses, front
    eventually(lambda: broken.open == 0)


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_speaks_through_it_when_it_behaves(
    speech: Start, broken: BrokenTier1, front: str
) -> None:
    heard = FRONTS[front](speech(keep=True, llama_endpoint=broken.url, max_tokens=140))
    assert heard.complete, heard
    assert len(heard.audio) >= 6 * 2048 * 2
