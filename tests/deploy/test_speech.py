"""Tier 2 as its script defines it, in this process: `Speech().web.local()`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import ASGIApp

from tests.support.live import ROOT, Pair, served

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*executing locally"
)  # modal's, of the Volume that is not there
BODY = {
    "input": "The boat drifted slowly down the river.",
    "voice": "tara",
    "response_format": "wav",
    "seed": 1,
}


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[ASGIApp]:
    """What the script makes of the environment, read anew."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("ORPHEUS_MODEL", "embedded")
    monkeypatch.setenv("ORPHEUS_CODEC", "embedded")
    monkeypatch.setenv("ORPHEUS_CODEC_DEVICE", "cpu")
    monkeypatch.delitem(sys.modules, "orpheus_fastapi_modal", raising=False)
    import orpheus_fastapi_modal

    yield orpheus_fastapi_modal.Speech().web.local()
    del sys.modules["orpheus_fastapi_modal"]


@pytest.fixture
def _tier_1(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_LLAMA_ENDPOINT", pair.llama_url)


@pytest.mark.usefixtures("_tier_1")
def test_it_speaks_end_to_end(application: ASGIApp) -> None:
    with served(application) as url:
        assert httpx.get(f"{url}/ready", trust_env=False).json()["status"] == "ready"  # at once: it is loaded
        answer = httpx.post(f"{url}/v1/audio/speech", json=BODY, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.content[:4] == b"RIFF"
    assert len(answer.content) > 24_000


def test_without_a_tier_1_it_is_up_and_says_what_is_missing(
    application: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orpheus.deploy import tier1
    from orpheus.errors import NotReady

    async def nowhere() -> str:
        raise NotReady("Tier 1, the app orpheus-llama-cpp, is not deployed here")

    monkeypatch.setattr(tier1, "_look_up", nowhere)
    with served(application) as url:
        assert httpx.get(f"{url}/live", trust_env=False).status_code == 200
        ready = httpx.get(f"{url}/ready", trust_env=False)
        answer = httpx.post(f"{url}/v1/audio/speech", json=BODY, timeout=60, trust_env=False)
    assert (ready.status_code, answer.status_code) == (503, 503)
    assert "is not deployed" in ready.json()["reason"]
    assert "is not deployed" in answer.json()["error"]["message"]
