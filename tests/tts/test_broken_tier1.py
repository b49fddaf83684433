"""Whatever tier 1 sends, a generation ends soon, with one sentence and the right kind of error."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.faults.broken_tier1 import (
    FAULTS,
    PING_S,
    BrokenTier1,
    Fault,
    choice,
    data,
    refuses,
    sends,
    some_frames,
)
from orpheus.errors import NotReady, OrpheusError, UpstreamError
from orpheus.http import refusals
from orpheus.http.responses import retry_after_s
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.tts import token_source
from orpheus.tts.token_source import Generation, HttpTokenSource, TokenChunk
from orpheus.voices import VOICES
from tests.support.upstream import event, whole
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
STALL_S = 0.3
SOON_S = 10.0  # far less than for ever, far more than any of it takes
MAX_TOKENS = 100
SEGMENT = Generation(VOICES["tara"], "Hello.", Sampling(seed=7), MAX_TOKENS)


@pytest.fixture(scope="module")
def _server() -> Iterator[BrokenTier1]:
    with BrokenTier1().served() as broken:
        yield broken


@pytest.fixture
def broken(_server: BrokenTier1, monkeypatch: pytest.MonkeyPatch) -> BrokenTier1:
    monkeypatch.setattr(token_source, "STALL_TIMEOUT_S", STALL_S)
    monkeypatch.setattr(refusals, "ERROR_BODY_TIMEOUT_S", STALL_S)
    return _server


@asynccontextmanager
async def source(broken: BrokenTier1, **settings: object) -> AsyncIterator[HttpTokenSource]:
    tokens = HttpTokenSource(load_settings(**{"llama_endpoint": broken.url} | settings))
    try:
        yield tokens
    finally:
        await tokens.aclose()


async def read(broken: BrokenTier1, fault: Fault, **settings: object) -> list[TokenChunk]:
    broken.fault = fault
    async with source(broken, **settings) as tokens:
        return [chunk async for chunk in tokens.generate(SEGMENT)]


async def outcome(broken: BrokenTier1, fault: Fault) -> tuple[OrpheusError | None, list[TokenChunk]]:
    try:
        return None, await read(broken, fault)
    except OrpheusError as error:
        return error, []


@pytest.mark.parametrize("name", FAULTS)
async def test_a_broken_tier_1_is_an_error_in_one_sentence_and_in_time(
    broken: BrokenTier1, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fault = FAULTS[name]
    started_s = time.monotonic()
    error, chunks = await outcome(broken, fault)
    if error is not None:
        assert error.status in fault.statuses
        said = str(error)
        assert len(said) < 500
        assert said.isprintable()
        assert broken.url.removeprefix("http://") not in said
    else:  # tokens that are no speech, or too many of them: the pipeline says so
        assert fault.statuses == (500,)
        assert chunks[-1].finish_reason in ("stop", "length")
        assert sum(len(chunk.numbers) for chunk in chunks) <= MAX_TOKENS + 7
    assert time.monotonic() - started_s < SOON_S
    await until(lambda: broken.open == 0)  # its stream is closed, so that it stops too


@pytest.mark.parametrize(
    "events",
    [
        [*whole(2), choice(text="after the end", finish_reason="abort")],
        [event(some_frames(1)[0], reason="stop")][:0] + whole(2),
        [text.replace("data: ", "data:") for text in whole(2)],
        [text.replace("\n", "\r\n") for text in whole(2)],
        [text.replace("\n", "\r") for text in whole(2)],
        ["\ufeff" + whole(2)[0], *whole(2)[1:]],
        [text.replace(', "finish', ',\ndata: "finish') for text in whole(2)],
        [": comment\n\n", "event: token\nid: 3\nretry: 5\n" + whole(2)[0], "data\n\n", *whole(2)[1:]],
        [*some_frames(2), choice(finish_reason="eos_token")],
        [*some_frames(2), choice(finish_reason="eos")],
        [*some_frames(2), choice(finish_reason="stop_sequence")],
        [event(reason=""), *whole(2)],
        [
            *some_frames(2),
            data({"choices": [{"text": "", "finish_reason": "stop"}], "usage": None, "error": None}),
        ],
        [*some_frames(2), data({"choices": [{"text": None, "token_ids": None, "finish_reason": "stop"}]})],
        ["".join(whole(2)).rstrip()],  # the last line has no end
    ],
)
async def test_what_is_only_unusual_is_read(broken: BrokenTier1, events: list[str]) -> None:
    chunks = await read(broken, Fault(sends(*events)))
    assert sum(len(chunk.numbers) for chunk in chunks) == 14
    assert chunks[-1].finish_reason == "stop"


async def test_bytes_may_be_cut_anywhere(broken: BrokenTier1) -> None:
    text = "".join(whole(2)).replace("\n", "\r\n")
    chunks = await read(broken, Fault(sends(*text)))
    assert sum(len(chunk.numbers) for chunk in chunks) == 14


async def test_a_tier_1_that_is_far_too_slow_is_given_up_although_it_makes_tokens(
    broken: BrokenTier1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_source, "SLOWEST_TOKEN_S", PING_S / 10)
    fault = FAULTS["pings"]
    tokens = [event("<custom_token_10>")]

    async def play(peer: object) -> None:
        await peer.head()  # type: ignore[attr-defined]
        await peer.trickle(lambda: peer.chunk(tokens[0]))  # type: ignore[attr-defined]

    with pytest.raises(UpstreamError, match="too slow"):
        await read(broken, Fault(play, fault.statuses))


async def test_a_reader_that_takes_its_time_is_no_stall_of_tier_1(broken: BrokenTier1) -> None:
    broken.fault = Fault(sends(*whole(4)))
    async with source(broken) as tokens:
        stream = tokens.generate(SEGMENT)
        count = 0
        async for chunk in stream:
            count += len(chunk.numbers)
            time.sleep(STALL_S / 2)  # noqa: ASYNC251 - our side is busy, tier 1 is not late
    assert count == 28


async def test_the_log_has_the_address_of_tier_1_without_its_password(
    broken: BrokenTier1, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = broken.url.replace("://", "://speaker:open%20sesame@") + "/v1?room=7"
    for fault in (FAULTS["ends with 'abort'"], FAULTS["answers 500"], FAULTS["closes at once"]):
        with pytest.raises(OrpheusError) as raised:
            await read(broken, fault, llama_endpoint=url)
        for secret in ("speaker", "sesame", "room=7", broken.url.removeprefix("http://")):
            assert secret not in str(raised.value)
    assert broken.url in caplog.text
    for secret in ("speaker", "sesame"):
        assert secret not in caplog.text
    assert "room=7" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("orpheus"))


async def test_the_user_and_password_of_the_endpoint_are_sent_to_it(broken: BrokenTier1) -> None:
    heard: list[str] = []
    broken.fault = Fault(sends(*whole(2)))
    async with source(broken, llama_endpoint=broken.url.replace("://", "://speaker:sesame@")) as tokens:
        async for _ in tokens.generate(SEGMENT):
            heard = broken.heads[-1].splitlines()
    assert "authorization: basic c3blywtlcjpzzxnhbwu=" in heard


async def test_tier_1s_own_words_are_passed_on_without_addresses_and_keys(broken: BrokenTier1) -> None:
    host = broken.url.removeprefix("http://")
    words = f"worker http://u:p@{host}/v1 refused Authorization: Bearer abcdefgh"
    with pytest.raises(UpstreamError) as raised:
        await read(broken, Fault(refuses(500, f'{{"error": {{"message": "{words}"}}}}')))
    for secret in (host, "u:p", "abcdefgh"):
        assert secret not in str(raised.value)
    assert "refused" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["silent", "slow headers", "a slow 503", "a slow 500", "an endless 500", "no HTTP"]
)
async def test_a_health_check_has_an_end_too(
    broken: BrokenTier1, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_source, "HEALTH_TIMEOUT_S", 2 * STALL_S)
    broken.health = FAULTS[name].play
    try:
        started_s = time.monotonic()
        async with source(broken) as tokens:
            with pytest.raises(NotReady) as raised:
                await tokens.check()
        assert time.monotonic() - started_s < SOON_S
        assert broken.url.removeprefix("http://") not in str(raised.value)
    finally:
        broken.health = refuses(200, b"{}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 3),
        (" 7 ", 7),
        ("0", 1),
        ("1.5", 2),
        ("-5", 1),
        ("²", 1),
        ("١٢", 1),
        ("9" * 5000, 1),
        ("999999999", 600),
        ("inf", 1),
        ("nan", 1),
        ("", 1),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600),
        ("Wed, 99 Foo 99999 99:99:99 GMT", 1),
        ("\0", 1),
    ],
)
def test_the_time_to_wait_is_whole_seconds_within_ten_minutes(value: str, expected: int) -> None:
    assert math.ceil(retry_after_s({"retry-after": value}) or 1) == expected
