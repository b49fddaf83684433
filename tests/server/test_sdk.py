"""The unmodified openai package against tier 2."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import httpx2
import openai
import pytest
from starlette.responses import JSONResponse

from orpheus.tts.encode import CONTENT_TYPES, FORMATS, Format
from tests.support.audio import decode
from tests.support.speech import SAMPLES
from tests.support.upstream import Upstream, whole

Start = Callable[..., httpx.Client]
Sdk = Callable[..., openai.OpenAI]
BODY = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello there."}


@pytest.fixture
def sdk(speech: Start) -> Iterator[Sdk]:
    """Makes a client as users do; `key` and `retries` are its own, other options are settings of tier 2."""
    with ExitStack() as stack:

        def make(*, key: str = "none-needed", retries: int = 2, **options: object) -> openai.OpenAI:
            return stack.enter_context(
                openai.OpenAI(
                    base_url=f"{speech(**options).base_url}/v1",
                    api_key=key,
                    max_retries=retries,
                    http_client=openai.DefaultHttpxClient(trust_env=False),
                )
            )

        yield make


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_arrives_buffered_and_streamed(sdk: Sdk, tmp_path: Path, format: Format) -> None:
    client = sdk()
    plain = client.audio.speech.create(**BODY, response_format=format)
    assert plain.response.headers["content-type"] == CONTENT_TYPES[format]
    file = tmp_path / f"speech.{format}"
    with client.audio.speech.with_streaming_response.create(**BODY, response_format=format) as response:
        assert response.request_id
        assert response.headers["x-sample-rate"] == "24000"
        response.stream_to_file(file)
    if format == "opus":  # each Ogg stream has a serial number of its own
        assert len(file.read_bytes()) == len(plain.content)
    else:
        assert file.read_bytes() == plain.content
    if format != "pcm":
        assert len(decode(plain.content)[0]) >= SAMPLES


def test_our_extensions_work_through_extra_body(sdk: Sdk) -> None:
    plain = sdk().audio.speech.create(
        **BODY, response_format="wav", extra_body={"stream": False, "sample_rate": 16_000, "seed": 3}
    )
    samples, rate = decode(plain.content)
    assert rate == 16_000
    assert len(samples) == pytest.approx(SAMPLES * 2 / 3, abs=20)
    assert plain.response.headers["content-length"] == str(len(plain.content))


def test_bytes_arrive_while_audio_is_still_generated(sdk: Sdk, upstream: Upstream) -> None:
    upstream.events, upstream.hang_after = whole(20), 5
    with sdk().audio.speech.with_streaming_response.create(**BODY, response_format="pcm") as response:
        chunks = response.iter_bytes(1024)
        size = len(next(chunks))
        upstream.go_on.set()
        assert size + sum(map(len, chunks)) == 20 * 2048 * 2


def test_events_can_be_read_with_iter_lines(sdk: Sdk) -> None:
    with sdk().audio.speech.with_streaming_response.create(
        **BODY, response_format="pcm", stream_format="sse"
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *deltas, done = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert sum(len(base64.b64decode(delta["audio"])) for delta in deltas) == SAMPLES * 2
    assert done["type"] == "speech.audio.done"
    assert set(done["usage"]) == {"input_tokens", "output_tokens", "total_tokens"}


def test_the_sdk_retries_a_full_server_after_its_retry_after(
    sdk: Sdk, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = sdk()
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429, headers={"Retry-After": "4"})
    waits_s: list[float] = []

    def sleep(seconds: float) -> None:
        waits_s.append(seconds)
        upstream.answer = None

    monkeypatch.setattr("openai._base_client.time", SimpleNamespace(sleep=sleep, time=time.time))
    content = client.audio.speech.create(**BODY, response_format="pcm").content
    assert len(content) == SAMPLES * 2
    assert waits_s == [pytest.approx(4, rel=0.25)]  # the SDK waits up to a quarter less


def test_many_sdk_callers_at_once_are_all_served_within_their_two_retries(
    speech: Start, upstream: Upstream
) -> None:
    callers, places = 32, 8
    upstream.events, upstream.pause_s = whole(8), 0.05
    url = f"{speech(max_requests=places).base_url}/v1"

    async def ask_at_once() -> list[bytes | BaseException]:
        async with openai.AsyncOpenAI(
            base_url=url, api_key="none-needed", http_client=openai.DefaultAsyncHttpxClient(trust_env=False)
        ) as client:

            async def content() -> bytes:
                return (await client.audio.speech.create(**BODY, response_format="pcm")).content

            await asyncio.gather(
                *(content() for _ in range(places))
            )  # so that the server knows how long it takes
            return await asyncio.gather(*(content() for _ in range(callers)), return_exceptions=True)

    answers = asyncio.run(ask_at_once())
    assert [len(answer) if isinstance(answer, bytes) else answer for answer in answers] == [
        8 * 2048 * 2
    ] * callers


def test_every_error_has_its_own_class_and_an_id(sdk: Sdk, upstream: Upstream) -> None:
    def failing(client: openai.OpenAI, **body: object) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            client.audio.speech.create(**(BODY | body))  # type: ignore[arg-type]
        assert caught.value.request_id
        return caught.value

    client = sdk(retries=0)
    invalid = failing(client, voice="bob")
    assert isinstance(invalid, openai.BadRequestError)
    assert (invalid.param, invalid.code, invalid.type) == (
        "voice",
        "voice_not_found",
        "invalid_request_error",
    )
    unknown = failing(sdk(retries=0, key="wrong", api_keys="right"))
    assert isinstance(unknown, openai.AuthenticationError)
    assert unknown.code == "invalid_api_key"
    long = failing(sdk(retries=0), input="x" * (1 << 21))
    assert long.status_code == 413
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("none")
    assert missing.value.code == "model_not_found"
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429)
    assert isinstance(failing(client), openai.RateLimitError)
    upstream.answer, upstream.break_after = None, 0
    assert isinstance(failing(client), openai.InternalServerError)


def test_a_broken_stream_raises_and_never_just_ends(sdk: Sdk, upstream: Upstream) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    client = sdk(retries=0)
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        client.audio.speech.with_streaming_response.create(**BODY) as response,
    ):
        for _ in response.iter_bytes():
            pass


def test_a_key_and_a_base_url_without_v1_work(sdk: Sdk) -> None:
    client = sdk(key="right", api_keys="right")
    assert len(client.audio.speech.create(**BODY, response_format="pcm").content) == SAMPLES * 2
    bare = client.with_options(base_url=str(client.base_url).removesuffix("v1/"))
    assert len(bare.audio.speech.create(**BODY, response_format="pcm").content) == SAMPLES * 2


def test_models_are_listed_with_a_request_id(sdk: Sdk) -> None:
    client = sdk()
    assert "orpheus-tts" in [model.id for model in client.models.list()]
    model = client.models.retrieve("tts-1")
    assert model._request_id
