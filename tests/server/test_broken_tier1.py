"""Whatever tier 1 sends, no front takes it for a complete answer, none hangs, and none tells where tier 1 is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from orpheus.tts import token_source
from tests.support.broken_tier1 import FAULTS, BrokenTier1, Fault, sends
from tests.support.fronts import FRONTS, HTTP_FRONTS
from tests.support.upstream import whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
STALL_S = 0.3
SOON_S = 10.0


@pytest.fixture(scope="module")
def _server() -> Iterator[BrokenTier1]:
    with BrokenTier1().served() as broken:
        yield broken


@pytest.fixture
def broken(_server: BrokenTier1, monkeypatch: pytest.MonkeyPatch) -> BrokenTier1:
    monkeypatch.setattr(token_source, "STALL_TIMEOUT_S", STALL_S)
    monkeypatch.setattr(token_source, "ERROR_BODY_TIMEOUT_S", STALL_S)
    _server.fault = Fault(sends(*whole()))
    return _server


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("name", FAULTS)
def test_every_front_fails_visibly_and_soon(
    speech: Start, broken: BrokenTier1, name: str, front: str
) -> None:
    client = speech(keep=True, llama_endpoint=broken.url)
    broken.fault = FAULTS[name]
    started_s = time.monotonic()
    heard = FRONTS[front](client)
    assert time.monotonic() - started_s < SOON_S
    assert not heard.complete
    assert heard.message
    assert broken.url.removeprefix("http://") not in heard.message
    if front in HTTP_FRONTS and not heard.audio and heard.status != 200:
        assert heard.status in FAULTS[name].statuses
    eventually(lambda: broken.open == 0)


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_speaks_through_it_when_it_behaves(
    speech: Start, broken: BrokenTier1, front: str
) -> None:
    heard = FRONTS[front](speech(keep=True, llama_endpoint=broken.url))
    assert heard.complete, heard
    assert len(heard.audio) >= 6 * 2048 * 2
