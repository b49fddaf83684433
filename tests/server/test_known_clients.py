"""Requests as known clients send them, and what each client does with the response."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.audio import decode
from tests.support.upstream import SPEECH_FRAMES

Start = Callable[..., httpx.Client]
SAMPLES = SPEECH_FRAMES * 2048


def test_open_webui_lists_without_a_key_and_indexes_id_and_name(speech: Start) -> None:
    client = speech(keep=True, api_keys="secret")
    models = client.get("/v1/audio/models").json()["models"]
    voices = client.get("/v1/audio/voices").json()["voices"]
    assert models[0]["id"]
    assert all(voice["id"] and voice["name"] for voice in voices)
    body = {"model": "tts-1", "input": "Hello there.", "voice": "alloy"}
    response = client.post("/v1/audio/speech", json=body, headers={"Authorization": "Bearer secret"})
    assert response.headers["content-type"] == "audio/mpeg"
    assert len(decode(response.content)[0]) >= SAMPLES


def test_livekit_reads_base64_mp3_events_and_warms_up_at_the_root(speech: Start) -> None:
    client = speech()
    assert client.get("/v1/").status_code == 200
    body = {
        "model": "gpt-4o-mini-tts",
        "voice": "ash",
        "input": "Hello there.",
        "response_format": "mp3",
        "speed": 1.0,
        "stream_format": "sse",
    }
    audio = b""
    with client.stream("POST", "/v1/audio/speech", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                audio += base64.b64decode(event.get("audio", ""))
    assert len(decode(audio)[0]) >= SAMPLES


def test_pipecat_reads_24_khz_pcm(speech: Start) -> None:
    body = {"input": "Hello there.", "model": "gpt-4o-mini-tts", "voice": "alloy", "response_format": "pcm"}
    assert len(speech().post("/v1/audio/speech", json=body).content) == SAMPLES * 2


@pytest.mark.parametrize("instructions", ["None", "", None])
def test_home_assistant_may_send_none_as_instructions(speech: Start, instructions: Any) -> None:
    body = {
        "model": "gpt-4o-mini-tts",
        "voice": "marin",
        "input": "Hello there.",
        "instructions": instructions,
        "speed": 1.0,
        "response_format": "wav",
    }
    response = speech().post("/v1/audio/speech", json=body)
    assert len(decode(response.content)[0]) == SAMPLES


def test_wyoming_openai_recognises_the_server_and_gets_the_wav_header_in_the_first_chunk(
    speech: Start,
) -> None:
    client = speech()
    assert client.get("/v1/test").json() == {"status": "ok"}
    assert client.get("/v1/readyz").status_code == 404
    body = {"model": "tts-1", "voice": "tara", "input": "Hello there.", "response_format": "wav"}
    with client.stream("POST", "/v1/audio/speech", json=body) as response:
        first = next(response.iter_raw())
    assert first[:4] == b"RIFF"
    assert len(first) > 44


def test_librechat_concatenates_mp3_streams_and_may_omit_the_voice(speech: Start) -> None:
    client = speech()
    parts = [
        client.post("/v1/audio/speech", json={"model": "tts-1", "input": text, "backend": "openai"}).content
        for text in ("Hello there.", "And again.")
    ]
    samples, rate = decode(b"".join(parts))
    assert len(samples) / rate >= 2 * SAMPLES / 24_000


def test_sillytavern_may_omit_or_repeat_v1_in_the_url(speech: Start) -> None:
    body = {"model": "tts-1", "input": "Hello there.", "voice": "nova", "response_format": "mp3", "speed": 1}
    assert speech().post("/audio/speech", json=body).status_code == 200
    assert speech().post("/v1/v1/audio/speech", json=body).status_code == 200
