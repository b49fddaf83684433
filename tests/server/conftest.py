from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from orpheus.codec import Codec
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.token_source import HttpTokenSource
from tests.support.live import served
from tests.support.upstream import Upstream
from tests.support.waiting import eventually


class SharedCodec:
    """The codec of the test session: an application that ends must not close it."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def _upstream_server() -> Iterator[tuple[Upstream, str]]:
    upstream = Upstream()
    with served(upstream.app) as url:
        yield upstream, url


@pytest.fixture(scope="session")
def _plain_speech(_upstream_server: tuple[Upstream, str], codec: Codec) -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        yield _start(stack, codec, _upstream_server[1])


@pytest.fixture
def upstream(_upstream_server: tuple[Upstream, str]) -> Iterator[Upstream]:
    """The scripted tier 1, reset to its defaults."""
    upstream, _ = _upstream_server
    upstream.reset()
    yield upstream
    upstream.go_on.set()


@pytest.fixture
def upstream_url(_upstream_server: tuple[Upstream, str]) -> str:
    return _upstream_server[1]


@pytest.fixture(scope="session")
def _kept_speech() -> Iterator[tuple[ExitStack, dict[str, httpx.Client]]]:
    with ExitStack() as stack:
        yield stack, {}


@pytest.fixture
def speech(
    codec: Codec,
    upstream: Upstream,
    _upstream_server: tuple[Upstream, str],
    _plain_speech: httpx.Client,
    _kept_speech: tuple[ExitStack, dict[str, httpx.Client]],
) -> Iterator[Callable[..., httpx.Client]]:
    """Starts a tier 2 with the given settings in front of the scripted tier 1; returns a client of it.

    Without settings all tests share one, and with `keep` those that ask for the same: a start takes half a second.
    """
    with ExitStack() as stack:

        def make(*, keep: bool = False, **options: Any) -> httpx.Client:
            if not options:
                return _plain_speech
            if not keep:
                return _start(stack, codec, _upstream_server[1], **options)
            kept_stack, kept = _kept_speech
            if repr(options) not in kept:
                kept[repr(options)] = _start(kept_stack, codec, _upstream_server[1], **options)
            return kept[repr(options)]

        yield make


def _start(stack: ExitStack, codec: Codec, upstream_url: str, **options: Any) -> httpx.Client:
    defaults = {"llama_endpoint": upstream_url, "model": "embedded", "postprocess": False}
    settings = load_settings(**(defaults | options))
    service = SpeechService(settings, lambda: HttpTokenSource(settings), lambda _: SharedCodec(codec))
    url = stack.enter_context(served(create_app(service)))
    client = stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=30))
    eventually(lambda: "loading" not in str(client.get("/health").json()["reason"]))
    return client
