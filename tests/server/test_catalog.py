"""Lists of models and voices, and the probes of known clients."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.speech import SAMPLES, ask, error_of

Start = Callable[..., httpx.Client]
PREFIXES = ("/v1", "", "/v1/v1")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_route_works_under_every_common_base_url(speech: Start, prefix: str) -> None:
    client = speech()
    assert client.get(f"{prefix}/models").json()["object"] == "list"
    assert client.get(f"{prefix}/models/tts-1").json()["id"] == "tts-1"
    assert client.get(f"{prefix}/audio/models").status_code == 200
    assert client.get(f"{prefix}/audio/voices").status_code == 200
    response = client.post(f"{prefix}/audio/speech", json=ask(response_format="pcm"))
    assert len(response.content) == SAMPLES * 2
    assert client.post(f"{prefix}/audio/speech/stream", json=ask()).content == response.content


def test_models_are_listed_in_openai_format(speech: Start) -> None:
    client = speech()
    models = client.get("/v1/models").json()
    ids = [model["id"] for model in models["data"]]
    assert {"orpheus-tts", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(ids)
    for model in models["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert client.get(f"/v1/models/{model['id']}").json() == model
    missing = client.get("/v1/models/none")
    assert missing.status_code == 404
    assert error_of(missing)["code"] == "model_not_found"


def test_open_webui_finds_models_and_voices(speech: Start) -> None:
    client = speech()
    assert "orpheus-tts" in [model["id"] for model in client.get("/v1/audio/models").json()["models"]]
    voices = client.get("/v1/audio/voices").json()["voices"]
    assert len(voices) >= 8
    assert all(voice["id"] == voice["name"] for voice in voices)
    assert "laugh" in client.get("/v1/audio/voices").json()["tags"]["en"]
    legacy = client.get("/v1/audio/voices?legacy=true").json()["voices"]
    assert legacy == [voice["id"] for voice in voices]


def test_probes_by_clients_identify_the_server_correctly(speech: Start) -> None:
    client = speech()
    assert client.get("/v1/test").json() == {"status": "ok"}  # wyoming_openai: voices can be listed
    assert client.get("/v1/readyz").status_code == 404  # wyoming_openai: this is not LocalAI
    assert client.get("/v1/").status_code == 200  # LiveKit opens its connection with it
    assert client.get("/health").text != "OK"  # wyoming_openai: this is not speaches


def test_live_and_ready_exist_beside_health(speech: Start) -> None:
    client = speech()
    assert client.get("/live").json() == {"status": "live"}
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert client.get("/health").json() == ready.json()
