from __future__ import annotations

from collections.abc import Iterator

import pytest

from orpheus.deploy import tier1
from orpheus.errors import NotReady
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from tests.support.live import served
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio
SEGMENT = Generation("tara", "Hello.", Sampling(seed=7), 700)


class Modal:
    """Where Modal says tier 1 is; `url` None is not deployed."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.asked = 0

    async def look_up(self) -> str:
        self.asked += 1
        if self.url is None:
            raise NotReady("Tier 1 is not deployed")
        return self.url


@pytest.fixture
def modal(monkeypatch: pytest.MonkeyPatch) -> Modal:
    modal = Modal()
    monkeypatch.setattr(tier1, "_look_up", modal.look_up)
    return modal


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, str]]:
    behaviour = Upstream()
    with served(behaviour.app) as url:
        yield behaviour, url


async def count(source: tier1.ModalTokenSource | HttpTokenSource) -> int:
    return sum([len(chunk.numbers) async for chunk in source.generate(SEGMENT)])


async def test_tier_1_is_looked_up_when_first_needed_and_then_known(
    modal: Modal, upstream: tuple[Upstream, str]
) -> None:
    source = tier1.tokens(load_settings())
    assert modal.asked == 0
    for _ in range(2):  # it can be deployed after tier 2: nothing that was said before is believed
        with pytest.raises(NotReady):
            await source.check()
    modal.url = upstream[1]
    assert await count(source) == 42
    await source.check()
    assert modal.asked == 3
    await source.aclose()


async def test_an_endpoint_in_the_settings_ends_the_looking_up(
    modal: Modal, upstream: tuple[Upstream, str]
) -> None:
    source = tier1.tokens(load_settings(llama_endpoint=upstream[1]))
    assert await count(source) == 42
    assert modal.asked == 0
    await source.aclose()


async def test_waking_asks_for_its_health_with_the_proxy_token(
    upstream: tuple[Upstream, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        tier1.wake(load_settings(llama_endpoint=upstream[1])).join(10)
        tier1.wake(load_settings(llama_endpoint="http://127.0.0.1:9")).join(
            10
        )  # asleep, or not there: no matter
    assert "answers 200" in caplog.text
    assert "could not be woken" in caplog.text
