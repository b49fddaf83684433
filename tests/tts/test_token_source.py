from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest
from starlette.responses import JSONResponse

from orpheus.errors import AtCapacity, BadRequest, NotReady, UpstreamError
from orpheus.prompt import turn_text
from orpheus.sampling import LLAMA_CPP_ANY_SEED, Sampling
from orpheus.settings import load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.vocabulary import number_of
from orpheus.voices import VOICES
from tests.support.live import free_port, served
from tests.support.upstream import Upstream, event, frame_text, whole

pytestmark = pytest.mark.anyio
SEGMENT = Generation(VOICES["tara"], "Hello.", Sampling(seed=7), 700)
FRAME = [number_of(slot, slot + 1) for slot in range(7)]


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, str]]:
    behaviour = Upstream()
    with served(behaviour.app) as url:
        yield behaviour, url


@asynccontextmanager
async def tokens(url: str, **settings: object) -> AsyncIterator[HttpTokenSource]:
    source = HttpTokenSource(load_settings(llama_endpoint=url, **settings))
    try:
        yield source
    finally:
        await source.aclose()


async def read(url: str, **settings: object) -> list[int]:
    async with tokens(url, **settings) as source:
        return [number async for chunk in source.generate(SEGMENT) for number in chunk.numbers]


async def test_tokens_are_read_from_text(upstream: tuple[Upstream, str]) -> None:
    assert await read(upstream[1]) == FRAME * 6


async def test_tokens_split_across_events_and_bytes_are_whole(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    text = frame_text() * 2
    events = "".join([*(event(text[i : i + 5]) for i in range(0, len(text), 5)), event(reason="stop")])
    behaviour.events = [events[i : i + 11] for i in range(0, len(events), 11)]
    assert await read(url) == FRAME * 2


async def test_ids_alone_are_read_in_the_published_numbering(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.events = [event(token_ids=[128256 + n for n in FRAME]), event(reason="stop")]
    assert await read(url) == FRAME


async def test_the_request_has_every_field_that_engines_need(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    await read(url, llama_api_key="secret", model_name="m")
    sent = behaviour.requests[0]
    assert sent["prompt"] == turn_text("tara", "Hello.")
    assert sent["stop"] == ["<custom_token_2>"]
    assert (sent["stream"], sent["seed"], sent["max_tokens"], sent["model"]) == (True, 7, 700, "m")
    assert sent["repetition_penalty"] == 1.1
    assert sent["add_special_tokens"] is False
    assert sent["headers"]["authorization"] == "Bearer secret"


async def test_no_seed_is_sent_unless_one_is_set(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    async with tokens(url) as source:
        segment = dataclasses.replace(SEGMENT, sampling=Sampling())
        async for _ in source.generate(segment):
            pass
    assert "seed" not in behaviour.requests[0]


async def test_a_seed_that_llama_cpp_takes_for_any_is_sent_as_another(
    upstream: tuple[Upstream, str],
) -> None:
    behaviour, url = upstream
    async with tokens(url) as source:
        segment = dataclasses.replace(SEGMENT, sampling=Sampling(seed=LLAMA_CPP_ANY_SEED))
        async for _ in source.generate(segment):
            pass
    assert behaviour.requests[0]["seed"] not in (None, -1, LLAMA_CPP_ANY_SEED)


async def test_the_end_of_speech_ends_it_even_if_the_server_continues(
    upstream: tuple[Upstream, str],
) -> None:
    behaviour, url = upstream
    behaviour.events = [event(frame_text() + "<custom_token_2>" + frame_text()), *whole()]
    assert await read(url) == FRAME


async def test_the_token_limit_is_distinguished_from_the_end(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.events = [event(frame_text()), event(reason="length"), "data: [DONE]\n\n"]
    async with tokens(url) as source:
        assert [chunk.finish_reason async for chunk in source.generate(SEGMENT)] == [None, "length"]


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (429, {"Retry-After": "3"}, AtCapacity),
        (503, {}, NotReady),
        (400, {}, BadRequest),
        (401, {}, UpstreamError),
        (404, {}, UpstreamError),
        (500, {}, UpstreamError),
    ],
)
async def test_each_refusal_is_an_error_of_its_own(
    upstream: tuple[Upstream, str], status: int, headers: dict[str, str], error: type[Exception]
) -> None:
    behaviour, url = upstream
    behaviour.answer = JSONResponse({"error": {"message": "because"}}, status, headers=headers)
    with pytest.raises(error) as caught:
        await read(url)
    if isinstance(caught.value, AtCapacity):
        assert caught.value.retry_after_s == 3


async def test_an_unreachable_tier_1_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(NotReady, match="ORPHEUS_LLAMA_ENDPOINT"):
        await read(f"http://127.0.0.1:{free_port()}")


async def test_a_stream_that_breaks_is_an_error_not_an_end(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.break_after = 3
    with pytest.raises(UpstreamError, match="broke off"):
        await read(url)


async def test_a_stream_that_ends_too_early_is_an_error(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.events = whole()[:3]
    with pytest.raises(UpstreamError, match="before the speech was complete"):
        await read(url)


async def test_a_stream_that_stalls_is_an_error_within_the_stated_time(
    upstream: tuple[Upstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.tts.token_source.STALL_TIMEOUT_S", 0.3)
    behaviour, url = upstream
    behaviour.hang_after = 2
    with pytest.raises(UpstreamError, match=r"nothing for 0\.3 s"):
        await read(url)
    behaviour.go_on.set()


@pytest.mark.parametrize(
    "line",
    ['data: {"error": {"message": "out of memory"}}', 'data: {"error": "out of memory"}'],
)
async def test_an_error_event_is_passed_on(upstream: tuple[Upstream, str], line: str) -> None:
    behaviour, url = upstream
    behaviour.events = [event(frame_text()), f"{line}\n\n"]
    with pytest.raises(UpstreamError, match="out of memory"):
        await read(url)


@pytest.mark.parametrize(
    "line", ["data: {", "data: []", 'data: {"choices": [3]}', 'data: {"choices": [{"token_ids": ["x"]}]}']
)
async def test_an_event_that_is_not_a_completion_is_an_error(
    upstream: tuple[Upstream, str], line: str
) -> None:
    behaviour, url = upstream
    behaviour.events = [f"{line}\n\n"]
    with pytest.raises(UpstreamError, match="not a completion"):
        await read(url)


async def test_leaving_a_stream_closes_the_connection(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    behaviour.events, behaviour.pause_s = whole(500), 0.005
    async with tokens(url) as source, aclosing(source.generate(SEGMENT)) as stream:
        await anext(stream)
    for _ in range(200):
        if behaviour.left:
            break
        await asyncio.sleep(0.01)
    assert behaviour.left == 1


async def test_check_says_why_tier_1_is_not_ready(upstream: tuple[Upstream, str]) -> None:
    behaviour, url = upstream
    async with tokens(url) as source:
        await source.check()
        behaviour.health = 503
        with pytest.raises(NotReady, match="weights are loading"):
            await source.check()
        behaviour.health = 404  # another engine, with no such route: it does answer
        await source.check()
