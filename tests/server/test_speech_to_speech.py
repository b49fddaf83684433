"""`POST /v1/audio/speech-to-speech`, with a scripted recognizer and language model, in front of the scripted tier 1."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest

from orpheus.agent import speech_to_speech
from orpheus.agent.audio import SAMPLE_RATE, Samples
from orpheus.agent.hear import Heard
from orpheus.agent.speech_to_speech import MAX_HEADER_BYTES, in_a_header
from orpheus.agent.think import INSTRUCTIONS, Finished, Message, TextDelta, Thought
from orpheus.codec import Codec
from orpheus.errors import NotReady, UpstreamError
from orpheus.http.body_limit import MAX_BODY_BYTES, MAX_RECORDING_BYTES
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.encode import FORMATS, Format, open_encoder, wav_header
from orpheus.tts.token_source import HttpTokenSource
from tests.server.conftest import SharedCodec
from tests.support.audio import decode
from tests.support.live import served
from tests.support.speech import error_of
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

PATH = "/v1/audio/speech-to-speech"


class Ears:
    """A recognizer that hears what a test says."""

    def __init__(self) -> None:
        self.text = "What is the capital of France?"
        self.failures: list[Exception] = []  # of the next calls
        self.hangs = False
        self.samples: list[Samples] = []
        self.languages: list[str | None] = []
        self.left = 0

    async def transcribe(
        self, samples: Samples, *, language: str | None = None, prompt: str | None = None
    ) -> Heard:
        self.samples.append(samples)
        self.languages.append(language)
        if self.hangs:
            try:
                await asyncio.sleep(60)
            finally:
                self.left += 1
        if self.failures:
            raise self.failures.pop(0)
        return Heard(self.text, len(samples) / SAMPLE_RATE, 0.1)

    async def warm_up(self) -> None: ...

    async def aclose(self) -> None: ...


class Mind:
    """A language model that answers what a test says."""

    def __init__(self) -> None:
        self.deltas = ["It ", "is ", "Paris. ", "A city in France."]
        self.failure: Exception | None = None  # after the deltas
        self.hangs = False  # after the deltas
        self.asked: list[Sequence[Message]] = []
        self.left = 0

    async def answer(self, messages: Sequence[Message], **_: Any) -> AsyncGenerator[Thought]:
        self.asked.append(messages)
        try:
            for delta in self.deltas:
                yield TextDelta(delta)
            if self.hangs:
                await asyncio.sleep(60)
            if self.failure:
                raise self.failure
            yield Finished("stop", 1, 1)
        finally:
            self.left += 1

    async def warm_up(self, messages: Sequence[Message]) -> None: ...

    async def aclose(self) -> None: ...


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
def mind() -> Mind:
    return Mind()


@pytest.fixture
def start(
    codec: Codec, upstream: Upstream, upstream_url: str, ears: Ears, mind: Mind
) -> Iterator[Callable[..., httpx.Client]]:
    stack: list[Any] = []

    def started(**options: Any) -> httpx.Client:
        settings = load_settings(llama_endpoint=upstream_url, model="embedded", postprocess=False, **options)
        service = SpeechService(settings, lambda: HttpTokenSource(settings), lambda _: SharedCodec(codec))
        app = create_app(service)
        app.include_router(
            speech_to_speech.routes(service, lambda: ears, lambda: mind, contextlib.nullcontext)
        )
        server = served(app)
        client = httpx.Client(base_url=server.__enter__(), trust_env=False, timeout=30)
        stack.append((server, client))
        eventually(lambda: "loading" not in str(client.get("/health").json()["reason"]))
        return client

    yield started
    for server, client in stack:
        client.close()
        server.__exit__(None, None, None)


@pytest.fixture
def client(start: Callable[..., httpx.Client]) -> httpx.Client:
    return start()


def recording(format: Format = "wav", seconds: float = 1.0, rate: int = 24_000) -> bytes:
    encoder = open_encoder(format, source_rate=rate, whole=True)
    time_s = np.arange(round(seconds * rate)) / rate
    return encoder.write(np.asarray(0.3 * np.sin(2 * np.pi * 200 * time_s), np.float32)) + encoder.flush()


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in re.findall(r"^data: (.*)$", text, re.MULTILINE)]


def test_a_recording_is_answered_with_speech(client: httpx.Client, ears: Ears, mind: Mind) -> None:
    answer = client.post(PATH, content=recording(), params={"response_format": "wav", "language": "en"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    samples, rate = decode(answer.content)
    assert rate == int(answer.headers["x-sample-rate"]) == 24_000
    assert len(samples) > 10_000
    assert unquote(answer.headers["x-transcript"]) == "What is the capital of France?"
    assert re.fullmatch(r"asr;dur=[\d.]+, llm;dur=[\d.]+, tts;dur=[\d.]+", answer.headers["server-timing"])
    assert len(ears.samples[0]) == pytest.approx(SAMPLE_RATE, abs=50)
    assert ears.languages == ["en"]
    assert mind.asked == [
        [Message("system", INSTRUCTIONS), Message("user", "What is the capital of France?")]
    ]


def test_what_is_said_is_the_whole_answer(client: httpx.Client, upstream: Upstream, mind: Mind) -> None:
    sentences = [
        f"This is sentence number {word} of the answer. " for word in ("one", "two", "three", "four")
    ]
    mind.deltas = re.findall(r"\S+\s*", "".join(sentences))
    client.post(PATH, content=recording())
    together = len(upstream.requests)
    upstream.requests.clear()
    mind.deltas = sentences[:1]
    client.post(PATH, content=recording())
    assert together > len(upstream.requests) >= 1


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac"])
def test_a_recording_of_any_container_is_heard(client: httpx.Client, ears: Ears, format: Format) -> None:
    answer = client.post(
        PATH, content=recording(format), headers={"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 200
    assert len(ears.samples[0]) == pytest.approx(SAMPLE_RATE, rel=0.1)
    assert np.abs(ears.samples[0]).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("format", FORMATS)
def test_the_answer_comes_in_every_format(client: httpx.Client, format: Format) -> None:
    answer = client.post(PATH, content=recording(), params={"response_format": format})
    assert answer.status_code == 200
    if format != "pcm":
        assert len(decode(answer.content)[0]) > 10_000


def test_a_form_with_a_file_and_fields_is_the_same(client: httpx.Client, ears: Ears, mind: Mind) -> None:
    fields = {"voice": "leo", "response_format": "flac", "instructions": "Be a pirate.", "language": "fr"}
    fields |= {"speed": "1.5", "stream": "false"}
    answer = client.post(PATH, files={"file": ("q.wav", recording(), "audio/wav")}, data=fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "audio/flac"
    assert unquote(answer.headers["x-answer"]) == "It is Paris. A city in France."
    assert ears.languages == ["fr"]
    assert mind.asked[0][0] == Message("system", "Be a pirate.")
    assert len(decode(answer.content)[0]) > 5_000


def test_events_tell_both_texts_the_audio_and_the_time_of_each_stage(client: httpx.Client) -> None:
    answer = client.post(PATH, content=recording(), params={"stream_format": "sse", "response_format": "pcm"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_in(answer.text)
    assert events[0]["type"] == "transcript.done"
    assert events[0]["text"] == "What is the capital of France?"
    assert events[0]["asr_ms"] > 0
    kinds = [event["type"] for event in events]
    assert kinds[1:3] == ["answer.delta", "speech.audio.delta"]
    assert (
        "".join(e["delta"] for e in events if e["type"] == "answer.delta") == "It is Paris. A city in France."
    )
    audio = b"".join(base64.b64decode(e["audio"]) for e in events if e["type"] == "speech.audio.delta")
    assert len(audio) > 20_000
    done = events[-1]
    assert done["type"] == "speech.audio.done"
    assert (done["transcript"], done["answer"]) == (events[0]["text"], "It is Paris. A city in France.")
    assert list(done["timings"]) == ["asr_ms", "llm_first_token_ms", "llm_ms", "first_audio_ms", "tts_ms"]
    assert done["timings"]["first_audio_ms"] <= done["timings"]["tts_ms"]
    assert done["usage"]["output_tokens"] > 0


def test_speech_begins_while_the_answer_is_still_thought(client: httpx.Client, mind: Mind) -> None:
    mind.deltas, mind.hangs = ["This is the first sentence of the answer. ", "And more"], True
    with client.stream("POST", PATH, content=recording(), params={"response_format": "pcm"}) as answer:
        assert answer.status_code == 200
        assert "x-answer" not in answer.headers
        assert next(answer.iter_raw())
    eventually(lambda: mind.left == 1)


def test_a_client_that_leaves_frees_every_stage(
    client: httpx.Client, ears: Ears, mind: Mind, upstream: Upstream
) -> None:
    ears.hangs = True
    with pytest.raises(httpx.ReadTimeout):
        client.post(PATH, content=recording(), timeout=0.5)
    eventually(lambda: ears.left == 1)
    ears.hangs = False
    mind.deltas, mind.hangs = [], True
    with pytest.raises(httpx.ReadTimeout):
        client.post(PATH, content=recording(), timeout=0.5)
    eventually(lambda: mind.left == 1)
    mind.deltas = ["This is the first sentence of the answer. "]
    upstream.events, upstream.pause_s = whole(500), 0.02
    with client.stream("POST", PATH, content=recording()) as answer:
        next(answer.iter_raw())
    eventually(lambda: mind.left == 2)
    eventually(lambda: upstream.left == 1)
    eventually(lambda: "orpheus_speech_active 0.0" in client.get("/metrics").text)


def test_a_recording_in_which_nobody_speaks_is_an_error(client: httpx.Client, ears: Ears) -> None:
    ears.text = " "
    answer = client.post(PATH, content=recording())
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "no_speech"


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"", {}, "The audio is empty"),
        (b"This is a text.", {"content-type": "audio/wav"}, "cannot be read"),
        (wav_header(24_000, 0), {}, "holds no audio"),
        (b"{}", {"content-type": "application/json"}, "Send the recording itself"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, "Send the recording itself"),
        (b"x", {"content-type": "multipart/form-data"}, "The form cannot be read"),
        (b"x", {"content-type": "multipart/form-data; boundary=x"}, "The form"),
    ],
)
def test_a_body_that_is_no_recording_is_refused_in_a_sentence(
    client: httpx.Client, content: bytes, headers: dict[str, str], message: str
) -> None:
    answer = client.post(PATH, content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert message in error_of(answer)["message"]


def test_a_form_without_a_file_is_refused(client: httpx.Client) -> None:
    answer = client.post(PATH, files={"audio": ("q.wav", recording())})
    assert answer.status_code == 400
    assert "send the recording as `file`" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("voice", "bob"), ("speed", "9"), ("response_format", "midi"), ("language", "English")],
)
def test_a_wrong_field_is_named_before_anything_is_heard(
    client: httpx.Client, ears: Ears, field: str, value: str
) -> None:
    answer = client.post(PATH, content=recording(), params={field: value})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == field
    assert not ears.samples


def test_a_recording_may_be_longer_than_other_bodies_but_not_endless(
    client: httpx.Client, ears: Ears
) -> None:
    brackets = b"[{" * (MAX_BODY_BYTES)  # audio may hold any bytes
    long = wav_header(24_000, len(brackets)) + brackets
    assert len(long) > 2 * MAX_BODY_BYTES
    assert client.post(PATH, content=long).status_code == 200
    assert len(ears.samples[0]) > 16_000 * 40

    def endless() -> Iterator[bytes]:
        for _ in range(MAX_RECORDING_BYTES // (1 << 20) + 2):
            yield bytes(1 << 20)

    # A client that keeps sending may find the connection closed before it reads the response.
    with contextlib.suppress(httpx.TransportError):
        assert client.post(PATH, content=endless()).status_code == 413
    claimed = client.post(PATH, content=bytes(MAX_RECORDING_BYTES + 1))
    assert claimed.status_code == 413
    assert "a shorter one" in error_of(claimed)["message"]


def test_hearing_is_tried_once_more(client: httpx.Client, ears: Ears) -> None:
    ears.failures = [UpstreamError("The transcription server broke off.")]
    assert client.post(PATH, content=recording()).status_code == 200
    ears.failures = [UpstreamError("The transcription server broke off.") for _ in range(2)]
    answer = client.post(PATH, content=recording())
    assert answer.status_code == 502
    assert "transcription server" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("failure", "status"), [(UpstreamError("The LLM broke off."), 502), (NotReady("Wait."), 503)]
)
def test_a_language_model_that_fails_is_an_error_with_its_status(
    client: httpx.Client, mind: Mind, failure: Exception, status: int
) -> None:
    mind.deltas, mind.failure = [], failure
    answer = client.post(PATH, content=recording())
    assert answer.status_code == status
    assert error_of(answer)["message"] == str(failure)


def test_an_answer_without_a_word_is_an_error(client: httpx.Client, mind: Mind) -> None:
    mind.deltas = []
    answer = client.post(PATH, content=recording())
    assert answer.status_code == 502
    assert "ask again" in error_of(answer)["message"]


def test_a_language_model_that_fails_in_the_middle_breaks_the_speech_off(
    client: httpx.Client, mind: Mind
) -> None:
    mind.deltas = ["This is the first sentence of the answer. "]
    mind.failure = UpstreamError("The LLM broke off.")
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(PATH, content=recording())
    text = ""
    with (
        client.stream("POST", PATH, content=recording(), params={"stream_format": "sse"}) as answer,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        for chunk in answer.iter_text():
            text += chunk
    events = events_in(text)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["message"] == "The LLM broke off."
    assert events[1] == {"type": "answer.delta", "delta": mind.deltas[0]}, "its text is kept"


def test_a_language_model_without_end_is_cut(
    client: httpx.Client, mind: Mind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.agent.speech_to_speech.MAX_STREAMED_CHARS", 1000)
    mind.deltas = ["All work and no play makes a dull boy. " * 10] * 10
    answer = client.post(PATH, content=recording(), params={"response_format": "pcm"}, timeout=120)
    assert answer.status_code == 200


def test_a_full_server_refuses_before_it_reads(
    start: Callable[..., httpx.Client], ears: Ears, mind: Mind
) -> None:
    client = start(max_requests=1)
    mind.deltas, mind.hangs = ["This is the first sentence of the answer. "], True
    with client.stream("POST", PATH, content=recording()) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        refused = client.post(PATH, content=recording())
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert len(ears.samples) == 1


def test_a_long_text_in_a_header_is_cut_between_characters() -> None:
    assert in_a_header("Über 7 €, ja?") == "%C3%9Cber 7 %E2%82%AC, ja?"
    cut = in_a_header("字" * 5000)
    assert len(cut) <= MAX_HEADER_BYTES
    assert set(unquote(cut)) == {"字"}
    assert "\n" not in in_a_header("a\r\nSet-Cookie: b")
