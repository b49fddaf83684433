"""OpenAI's speech API against a scripted tier 1: formats, limits and failures."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from orpheus.codec.service import Codec
from orpheus.tts.encode import CONTENT_TYPES, FORMATS, Format
from tests.support.audio import decode
from tests.support.live import free_port
from tests.support.speech import PATH, SAMPLES, ask, error_of
from tests.support.upstream import SPEECH_FRAMES, Upstream, event, frame_text, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]


def test_mp3_is_the_default_and_the_content_type_matches(speech: Start) -> None:
    response = speech().post(PATH, json=ask())
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/mpeg"
    assert len(decode(response.content)[0]) >= SAMPLES


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_contains_every_sample(speech: Start, format: Format) -> None:
    response = speech().post(PATH, json=ask(response_format=format))
    assert response.headers["content-type"] == CONTENT_TYPES[format]
    assert response.headers["x-sample-rate"] == "24000"
    assert response.headers["x-accel-buffering"] == "no"
    if format == "pcm":
        assert len(response.content) == SAMPLES * 2
    elif format in ("wav", "flac"):
        assert len(decode(response.content)[0]) == SAMPLES
    else:
        samples, rate = decode(response.content)
        assert 0 <= len(samples) / rate - SAMPLES / 24_000 < 0.1


def test_the_streaming_route_sends_raw_samples_by_default(speech: Start) -> None:
    client = speech()
    response = client.post(f"{PATH}/stream", json=ask())
    assert response.headers["content-type"] == "audio/pcm"
    assert response.content == client.post(PATH, json=ask(response_format="pcm")).content


@pytest.mark.parametrize("path", [PATH, f"{PATH}/stream"])
def test_audio_is_sent_while_tokens_are_still_arriving(speech: Start, upstream: Upstream, path: str) -> None:
    upstream.events, upstream.hang_after = whole(20), 5
    with speech().stream("POST", path, json=ask(response_format="pcm")) as response:
        chunks = response.iter_raw()
        size = len(next(chunks))  # tier 1 goes on only once this has come
        upstream.go_on.set()
        size += sum(len(chunk) for chunk in chunks)
    assert size == 20 * 2048 * 2


def test_sse_deltas_are_slices_of_the_plain_response(speech: Start) -> None:
    client = speech()
    response = client.post(PATH, json=ask(stream_format="sse", response_format="wav"))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    joined = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert joined == client.post(PATH, json=ask(response_format="wav")).content
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["output_tokens"] == SPEECH_FRAMES * 7
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + SPEECH_FRAMES * 7


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_sse_deltas_report_when_segments_begin(speech: Start, speed: float) -> None:
    text = "This is the first sentence of two, and it is long enough. This is the second sentence, as long."
    body = ask(input=text, stream_format="sse", response_format="pcm", speed=speed)
    lines = speech().post(PATH, json=body).text.splitlines()
    deltas = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][:-1]
    starts = [start_s for delta in deltas for start_s in delta.get("segments_s", [])]
    assert starts == [0, pytest.approx(SAMPLES / 24_000 / speed, abs=1e-3)]
    assert deltas[0]["segments_s"] == [0]


def test_code_zero_is_decoded_like_any_other(speech: Start, upstream: Upstream) -> None:
    upstream.events = [event(frame_text((0,) * 7)), event(frame_text((0, 3, 0, 5, 0, 0, 9))), *whole(2)]
    response = speech().post(PATH, json=ask(response_format="pcm"))
    assert len(response.content) == 4 * 2048 * 2


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_very_short_generation_is_complete(speech: Start, upstream: Upstream, frames: int) -> None:
    upstream.events = whole(frames)
    response = speech().post(PATH, json=ask(input="Hi.", response_format="pcm"))
    assert len(response.content) == frames * 2048 * 2


def test_a_long_text_is_spoken_segment_by_segment_in_order(speech: Start, upstream: Upstream) -> None:
    text = " ".join(f"This is sentence number {n} of a long text." for n in range(90))[:3000]
    response = speech().post(PATH, json=ask(input=text, response_format="pcm"))
    prompts = [request["prompt"] for request in upstream.requests]
    segments = [prompt.split("tara: ")[1].split("<|eot_id|>")[0] for prompt in prompts]
    assert len(segments) > 20
    assert " ".join(segments).rstrip(".") == text.strip().rstrip(".")
    assert len(response.content) == len(segments) * SAMPLES * 2


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (
            {"input": "**Hi** Ann 🎉, see https://example.com/a <b>now</b> <LAUGH>"},
            "Hi Ann, see example dot com slash a now <laugh>",
        ),
        ({"input": "I have 21 of them."}, "I have 21 of them."),
        ({"input": "I have 21 of them.", "normalize": True}, "I have twenty-one of them."),
    ],
)
def test_the_prompt_holds_the_text_as_a_person_would_read_it(
    speech: Start, upstream: Upstream, body: dict[str, Any], prompt: str
) -> None:
    assert speech().post(PATH, json=ask(**body)).status_code == 200
    assert f"tara: {prompt}<|eot_id|>" in upstream.requests[0]["prompt"]


def test_a_speed_and_a_voice_object_are_accepted(speech: Start) -> None:
    client = speech()
    fast = client.post(PATH, json=ask(speed=2.0, voice={"id": "leo"}, response_format="pcm"))
    assert len(fast.content) == pytest.approx(SAMPLES, rel=0.05)


def test_unknown_keys_and_openai_names_are_accepted(speech: Start, upstream: Upstream) -> None:
    body = ask(voice="marin", model="whatever", instructions="None", backend="x", language="en")
    assert speech().post(PATH, json=body).status_code == 200
    assert "leah: Hello there." in upstream.requests[0]["prompt"]


@pytest.mark.parametrize(
    "body",
    [
        {"stream": None, "seed": None, "voice": None, "response_format": None, "speed": None, "model": None},
        {"seed": -1, "max_tokens": -1},
        {"seed": "-1", "max_tokens": -1.0},
        {
            "voice": "",
            "response_format": "",
            "speed": "",
            "model": "",
            "stream_format": "",
            "instructions": "",
        },
        {
            "voice": " ",
            "response_format": "  ",
            "stream": "",
            "sample_rate": "",
            "normalize": "",
            "top_p": "",
        },
        {"voice": {"id": ""}},
        {"voice": {"id": None}},
        {"voice": {"id": " "}},
        {"response_format": "MP3", "stream_format": "Audio", "voice": "TARA", "stream": "True"},
        {"response_format": " mp3 ", "voice": " tara ", "speed": " 1.0 "},
        {"response_format": "audio/mpeg"},
        {"response_format": "mpeg"},
        {
            "speed": "1.0",
            "stream": "true",
            "normalize": "false",
            "temperature": "0.6",
            "lead_silence_ms": "30",
        },
        {"lang_code": "a", "volume_multiplier": 1, "download_format": "mp3"},
    ],
)
def test_what_clients_send_for_a_default_is_the_default(
    speech: Start, upstream: Upstream, body: dict[str, Any]
) -> None:
    client = speech()
    assert client.post(PATH, json=ask()).status_code == 200
    response = client.post(PATH, json=ask(**body))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "audio/mpeg"
    own = ("headers", "seed")
    plain, tolerated = ({k: v for k, v in sent.items() if k not in own} for sent in upstream.requests)
    assert plain == tolerated
    seeds = [sent["seed"] for sent in upstream.requests]
    assert seeds[0] != seeds[1]  # each its own


@pytest.mark.parametrize(
    ("given", "format"),
    [
        ("WAV", "wav"),
        ("Wave", "wav"),
        ("audio/x-wav", "wav"),
        ("PCM16", "pcm"),
        ("audio/pcm", "pcm"),
        ("audio/flac", "flac"),
        (" Opus", "opus"),
        ("AAC", "aac"),
    ],
)
def test_a_format_is_known_in_any_case_and_by_its_media_type(
    speech: Start, given: str, format: Format
) -> None:
    response = speech().post(PATH, json=ask(response_format=given))
    assert response.headers["content-type"] == CONTENT_TYPES[format]


def test_the_streaming_route_has_its_own_default_for_an_empty_format(speech: Start) -> None:
    for format in ("", None, " "):
        response = speech().post(f"{PATH}/stream", json=ask(response_format=format))
        assert response.headers["content-type"] == "audio/pcm"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (ask(seed=-2), "seed"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens=-2), "max_tokens"),
        (ask(temperature=-1), "temperature"),
        (ask(voice={}), "voice"),
        (ask(voice=[]), "voice"),
        (ask(stream="maybe"), "stream"),
        (ask(stream_format="audio/sse"), "stream_format"),
        (ask(input=None), "input"),
        (ask(input=""), "input"),
        (ask(input="   "), "input"),
        (ask(input="x" * 4097), "input"),
        (ask(voice="bob"), "voice"),
        (ask(voice={"id": "bob"}), "voice"),
        (ask(voice=3), "voice"),
        (ask(speed=0.1), "speed"),
        (ask(speed=4.1), "speed"),
        (ask(speed="fast"), "speed"),
        (ask(response_format="ogg"), "response_format"),
        (ask(stream_format="ws"), "stream_format"),
        (ask(instructions="x" * 4097), "instructions"),
        ({"model": "tts-1", "voice": "tara"}, "input"),
        (ask(input=["a"]), "input"),
        ([], None),
        ("text", None),
    ],
)
def test_an_invalid_request_is_a_400_that_names_the_field(
    speech: Start, upstream: Upstream, body: Any, param: str | None
) -> None:
    response = speech().post(PATH, json=body)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert upstream.requests == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"input": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_not_valid_json_is_a_400(speech: Start, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = speech().post(PATH, content=content, headers=headers)
    assert response.status_code == 400
    error_of(response)


def test_4096_characters_are_accepted(speech: Start) -> None:
    text = ("word " * 1000)[:4095] + "."
    assert speech().post(PATH, json=ask(input=text)).status_code == 200


def test_the_length_limit_is_a_setting(speech: Start) -> None:
    client = speech(max_input_chars=10)
    assert "ORPHEUS_MAX_INPUT_CHARS" in error_of(client.post(PATH, json=ask()))["message"]


def test_unknown_paths_and_methods_are_errors_in_openai_format(speech: Start) -> None:
    client = speech()
    assert client.get("/v1/nothing").status_code == 404
    assert error_of(client.get("/v1/nothing"))["type"] == "invalid_request_error"
    assert client.put(PATH).status_code == client.get(f"{PATH}/stream").status_code == 405
    error_of(client.put(PATH))


def test_a_dead_tier_1_is_a_503_that_says_what_to_do(speech: Start) -> None:
    client = speech(llama_endpoint=f"http://127.0.0.1:{free_port()}")
    response = client.post(PATH, json=ask())
    assert response.status_code == 503
    assert "ORPHEUS_LLAMA_ENDPOINT" in error_of(response)["message"]
    health = client.get("/health")
    assert health.status_code == 503
    assert "cannot be reached" in health.json()["reason"]


def test_a_full_tier_1_is_a_429_with_its_retry_after(speech: Start, upstream: Upstream) -> None:
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429, headers={"Retry-After": "4"})
    response = speech().post(PATH, json=ask())
    assert response.status_code == 429
    assert response.headers["retry-after"] == "4"
    assert error_of(response)["code"] == "rate_limit_exceeded"


def test_requests_over_the_limit_are_429(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech(max_requests=1)
    with client.stream("POST", PATH, json=ask()) as active:
        chunks = active.iter_raw()
        next(chunks)
        response = client.post(PATH, json=ask())
        assert next(chunks)  # the first one still runs
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1


def test_a_tier_1_that_fails_before_any_audio_is_a_502(speech: Start, upstream: Upstream) -> None:
    upstream.break_after = 0
    response = speech().post(PATH, json=ask())
    assert response.status_code == 502
    assert error_of(response)["code"] == "upstream_error"


def test_a_generation_without_sound_is_an_error_never_an_empty_200(speech: Start, upstream: Upstream) -> None:
    upstream.events = whole(0)
    response = speech().post(PATH, json=ask())
    assert response.status_code == 500
    assert "stayed silent" in error_of(response)["message"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_tier_1_that_dies_in_the_middle_breaks_the_body(
    speech: Start, upstream: Upstream, format: Format
) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    with (
        speech().stream("POST", PATH, json=ask(response_format=format)) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        assert response.status_code == 200
        assert sum(len(chunk) for chunk in response.iter_raw()) > 0


def test_a_failure_in_the_middle_of_sse_is_an_error_event_and_no_done(
    speech: Start, upstream: Upstream
) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    seen = b""
    with (
        speech().stream("POST", PATH, json=ask(stream_format="sse")) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        for chunk in response.iter_raw():
            seen += chunk
    assert b"event: error" in seen
    assert b"upstream_error" in seen
    assert b"speech.audio.done" not in seen


@pytest.mark.parametrize("before_audio", [True, False])
def test_a_client_that_leaves_cancels_tier_1(speech: Start, upstream: Upstream, before_audio: bool) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech()
    if before_audio:
        upstream.hang_after = 1
        upstream.events[0] = event()
        body = json.dumps(ask()).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as raw:
            raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            eventually(lambda: upstream.requests)
    else:
        with client.stream("POST", PATH, json=ask(response_format="pcm")) as response:
            next(response.iter_raw())
    eventually(lambda: upstream.left == 1)


def test_codes_of_another_codec_are_a_clear_error(
    speech: Start, upstream: Upstream, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "codes", 2048)  # the embedded codec has all 4,096
    upstream.events = [event(frame_text((4000, 1, 2, 3, 4, 5, 6))), *whole()]
    response = speech().post(PATH, json=ask())
    assert response.status_code == 500
    assert "ORPHEUS_CODEC" in error_of(response)["message"]


def test_a_pause_mark_is_that_long_and_pauses_alone_are_refused(speech: Start) -> None:
    client = speech()
    text = 'Wait [pause:2s] what? <break time="500ms"/>'
    response = client.post(PATH, json=ask(input=text, response_format="pcm"))
    assert len(response.content) == (2 * SAMPLES + 2 * 24_000 + 12_000) * 2
    alone = client.post(PATH, json=ask(input="[pause:2s]"))
    assert (alone.status_code, error_of(alone)["code"]) == (400, "empty_input")


def test_a_failure_after_a_pause_at_the_beginning_is_still_a_status(
    speech: Start, upstream: Upstream
) -> None:
    upstream.answer = JSONResponse({"error": {"message": "broken"}}, 500)
    assert speech().post(PATH, json=ask(input="[pause:2s] Hello there.")).status_code >= 500


def test_stage_directions_are_read_unless_the_request_skips_them(speech: Start, upstream: Upstream) -> None:
    text = "*Holds out hand* Nice to meet you."
    for field in ({}, {"stage_directions": "skip"}):
        assert speech().post(PATH, json=ask(input=text, **field)).status_code == 200
    read, skipped = (request["prompt"] for request in upstream.requests)
    assert "Holds out hand Nice to meet you." in read
    assert "Holds" not in skipped
    wrong = speech().post(PATH, json=ask(stage_directions="sing"))
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "stage_directions")
