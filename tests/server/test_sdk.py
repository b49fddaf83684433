"""The openai package, unmodified, against us."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

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
SPOKEN = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello there."}


@pytest.fixture
def sdk(speech: Start) -> Iterator[Sdk]:
    """A client as a user makes it; `key` and `retries` are the client's, the rest options of tier 2."""
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
def test_every_format_buffered_and_streamed(sdk: Sdk, tmp_path: Path, format: Format) -> None:
    client = sdk()
    plain = client.audio.speech.create(**SPOKEN, response_format=format)
    assert plain.response.headers["content-type"] == CONTENT_TYPES[format]
    file = tmp_path / f"said.{format}"
    with client.audio.speech.with_streaming_response.create(**SPOKEN, response_format=format) as response:
        assert response.request_id
        assert response.headers["x-sample-rate"] == "24000"
        response.stream_to_file(file)
    if format == "opus":  # each Ogg stream has a serial number of its own
        assert len(file.read_bytes()) == len(plain.content)
    else:
        assert file.read_bytes() == plain.content
    if format != "pcm":
        assert len(decode(plain.content)[0]) >= SAMPLES


def test_our_extensions_go_through_extra_body(sdk: Sdk) -> None:
    plain = sdk().audio.speech.create(
        **SPOKEN, response_format="wav", extra_body={"stream": False, "sample_rate": 16_000, "seed": 3}
    )
    samples, rate = decode(plain.content)
    assert rate == 16_000
    assert len(samples) == pytest.approx(SAMPLES * 2 / 3, abs=20)
    assert plain.response.headers["content-length"] == str(len(plain.content))


def test_bytes_are_heard_while_they_are_made(sdk: Sdk, upstream: Upstream) -> None:
    upstream.events, upstream.hang_after = whole(20), 5
    with sdk().audio.speech.with_streaming_response.create(**SPOKEN, response_format="pcm") as response:
        chunks = response.iter_bytes(1024)
        size = len(next(chunks))
        upstream.go_on.set()
        assert size + sum(map(len, chunks)) == 20 * 2048 * 2


def test_events_by_iter_lines(sdk: Sdk) -> None:
    with sdk().audio.speech.with_streaming_response.create(
        **SPOKEN, response_format="pcm", stream_format="sse"
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *deltas, done = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert sum(len(base64.b64decode(delta["audio"])) for delta in deltas) == SAMPLES * 2
    assert done["type"] == "speech.audio.done"
    assert set(done["usage"]) == {"input_tokens", "output_tokens", "total_tokens"}


def test_a_full_server_is_tried_again_after_the_time_it_says(sdk: Sdk, upstream: Upstream) -> None:
    client = sdk()
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429, headers={"Retry-After": "1"})
    tries = 0

    def then_fine(request: httpx2.Request) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            upstream.answer = None

    client._client.event_hooks["request"].append(then_fine)
    started = time.monotonic()
    content = client.audio.speech.create(**SPOKEN, response_format="pcm").content
    assert (tries, len(content)) == (2, SAMPLES * 2)
    assert 0.7 < time.monotonic() - started < 5  # the SDK waits up to a quarter less than told


def test_every_error_is_its_own_class_with_its_id(sdk: Sdk, upstream: Upstream) -> None:
    def failing(client: openai.OpenAI, **body: object) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            client.audio.speech.create(**(SPOKEN | body))  # type: ignore[arg-type]
        assert caught.value.request_id
        return caught.value

    client = sdk(retries=0)
    wrong = failing(client, voice="bob")
    assert isinstance(wrong, openai.BadRequestError)
    assert (wrong.param, wrong.code, wrong.type) == ("voice", "voice_not_found", "invalid_request_error")
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


def test_a_stream_that_breaks_raises_and_never_just_ends(sdk: Sdk, upstream: Upstream) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    client = sdk(retries=0)
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        client.audio.speech.with_streaming_response.create(**SPOKEN) as response,
    ):
        for _ in response.iter_bytes():
            pass


def test_a_key_of_ours_and_a_base_url_without_v1(sdk: Sdk) -> None:
    client = sdk(key="right", api_keys="right")
    assert len(client.audio.speech.create(**SPOKEN, response_format="pcm").content) == SAMPLES * 2
    bare = client.with_options(base_url=str(client.base_url).removesuffix("v1/"))
    assert len(bare.audio.speech.create(**SPOKEN, response_format="pcm").content) == SAMPLES * 2


def test_models_are_listed_with_their_request_id(sdk: Sdk) -> None:
    client = sdk()
    assert "orpheus-tts" in [model.id for model in client.models.list()]
    model = client.models.retrieve("tts-1")
    assert model._request_id
