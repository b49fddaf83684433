"""The two tiers never guess their model apart: tier 2 in front of tier 1s that serve what it does not expect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from orpheus import embedded
from orpheus.codec.checkpoint import PUBLISHED as PUBLISHED_CODEC
from orpheus.errors import NotReady, SetupError
from orpheus.llama.backend import Model
from orpheus.server import service
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import REAL_CODEC, REAL_MODEL, load_settings
from orpheus.tts import token_source
from orpheus.tts.served_model import ServedModel, check_fit, listed_model, named_model
from orpheus.tts.token_source import HttpTokenSource
from orpheus.voices import languages_of
from tests.support.live import Pair, free_port, served
from tests.support.random_snac import PUBLISHED as PUBLISHED_CONFIG
from tests.support.speech import PATH, ask
from tests.support.upstream import EMBEDDED, PUBLISHED, Upstream, listed
from tests.support.waiting import eventually


@contextmanager
def speech(**settings: Any) -> Iterator[tuple[httpx.Client, SpeechService]]:
    tier_2 = SpeechService.over_http(load_settings(**settings))
    with (
        served(create_app(tier_2)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client, tier_2


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, str]]:
    upstream = Upstream()
    with served(upstream.app) as url:
        yield upstream, url


@pytest.fixture
def published_codec(tmp_path: Path) -> Path:
    """As much of it as is looked at before its weights are loaded."""
    folder = tmp_path / "snac"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    (folder / "pytorch_model.bin").touch()
    return folder


def test_real_tokens_do_not_reach_the_embedded_codec(upstream: tuple[Upstream, str]) -> None:
    tier_1, url = upstream
    tier_1.models = listed(**PUBLISHED)
    with speech(llama_endpoint=url, codec="embedded") as (client, tier_2):
        eventually(lambda: tier_2.failure is not None)
        said = client.get("/ready").json()
        assert client.post(PATH, json=ask()).status_code == 503
    assert isinstance(tier_2.failure, SetupError)
    assert "vocabulary of 156,940" in said["reason"]
    assert f"set ORPHEUS_CODEC={REAL_CODEC}" in said["reason"]
    assert not tier_1.requests


def test_embedded_tokens_do_not_reach_the_published_codec(
    upstream: tuple[Upstream, str], published_codec: Path
) -> None:
    tier_1, url = upstream
    tier_1.models = listed(**EMBEDDED)
    with speech(llama_endpoint=url, codec=str(published_codec)) as (client, tier_2):
        eventually(lambda: tier_2.failure is not None)
        assert "set ORPHEUS_CODEC=embedded" in client.get("/ready").json()["reason"]
    assert not tier_1.requests


def test_the_codec_voices_and_segments_follow_what_tier_1_serves(upstream: tuple[Upstream, str]) -> None:
    """On a machine whose own choice would be another."""
    tier_1, url = upstream
    tier_1.models = listed(**EMBEDDED, weights="embedded")
    with speech(llama_endpoint=url, postprocess=False) as (client, tier_2):
        eventually(lambda: client.get("/ready").status_code == 200)
        assert (tier_2.model.codec, tier_2.model.segment_chars) == ("embedded", 110)
        assert client.post(PATH, json=ask()).status_code == 200
        assert client.get("/v1/audio/voices").json()["voices"][0]["id"] == "tara"


def test_what_is_named_comes_up_at_once_and_is_refused_when_tier_1_says_otherwise(
    upstream: tuple[Upstream, str],
) -> None:
    tier_1, url = upstream
    tier_1.models = Response(status_code=503)
    with speech(llama_endpoint=url, model="embedded", postprocess=False) as (client, tier_2):
        eventually(lambda: tier_2.codec_report() != {})
        tier_1.models = listed(**PUBLISHED)
        for _ in range(2):
            refused = client.post(PATH, json=ask())
            assert refused.status_code == 503
            assert "noise" in refused.json()["error"]["message"]
            assert "noise" in client.get("/ready").json()["reason"]
        assert not tier_1.requests
        tier_1.models = listed(**EMBEDDED)
        assert client.post(PATH, json=ask()).status_code == 200
        assert client.get("/ready").status_code == 200


def test_a_restart_with_another_model_is_noticed_before_its_first_token(
    upstream: tuple[Upstream, str],
) -> None:
    tier_1, url = upstream
    tier_1.models, tier_1.fingerprint = listed(**EMBEDDED, fingerprint="one"), "one"
    with speech(llama_endpoint=url, postprocess=False) as (client, _):
        eventually(lambda: client.get("/ready").status_code == 200)
        assert client.post(PATH, json=ask()).status_code == 200
        tier_1.models, tier_1.fingerprint = listed(**PUBLISHED, fingerprint="two"), "two"
        changed = client.post(PATH, json=ask())
        assert (changed.status_code, changed.json()["error"]["code"]) == (503, "not_ready")
        assert "noise" in client.post(PATH, json=ask()).json()["error"]["message"]
        tier_1.models, tier_1.fingerprint = listed(**EMBEDDED, fingerprint="three"), "three"
        assert client.post(PATH, json=ask()).status_code == 200


def test_without_tier_1_it_comes_up_says_so_and_goes_on_when_there_is_one() -> None:
    port = free_port()
    with speech(llama_endpoint=f"http://127.0.0.1:{port}", postprocess=False) as (client, _):
        eventually(lambda: "cannot be reached" in client.get("/ready").json()["reason"])
        assert client.get("/live").status_code == 200
        refused = client.post(PATH, json=ask())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        tier_1 = Upstream()
        tier_1.models = Response('{"error": {"message": "The model is loading."}}', 503)
        with served(tier_1.app, port):
            eventually(lambda: client.get("/ready").json()["reason"] == "The model is loading.")
            tier_1.models = listed(**EMBEDDED)
            eventually(lambda: client.get("/ready").status_code == 200)
            assert client.post(PATH, json=ask()).status_code == 200


@pytest.mark.parametrize(
    "answer", ["", "<html>", "[]", "{}", '{"data": 5}', '{"data": [5, {}]}', "[" * 10_000]
)
def test_an_endpoint_that_says_nothing_serves_the_published_model(
    answer: str, upstream: tuple[Upstream, str]
) -> None:
    tier_1, url = upstream
    tier_1.models = Response(answer)
    asked: list[ServedModel] = []

    def load_codec(model: ServedModel) -> Any:
        asked.append(model)
        raise SetupError("enough")

    settings = load_settings(llama_endpoint=url)
    tier_2 = SpeechService(settings, lambda: HttpTokenSource(settings), load_codec)
    with served(create_app(tier_2)):
        eventually(lambda: tier_2.failure is not None)
    assert asked == [named_model(settings)]
    assert (asked[0].name, asked[0].codec, asked[0].id) == (REAL_MODEL, REAL_CODEC, "orpheus")


def test_our_tier_1_says_what_it_serves(pair: Pair) -> None:
    (card,) = httpx.get(f"{pair.llama_url}/v1/models", trust_env=False).json()["data"]
    model = listed_model({"data": [card]}, load_settings())
    assert (model.name, model.codec, model.wide_seeds, model.published) == (
        "embedded",
        "embedded",
        True,
        False,
    )
    done = httpx.post(
        f"{pair.llama_url}/v1/completions", json={"prompt": "Hello", "max_tokens": 7}, trust_env=False
    )
    assert done.headers["x-model-fingerprint"] == model.fingerprint


def test_the_embedded_vocabulary_is_the_size_that_is_written_down() -> None:
    model = Model(embedded.MODEL, 0)
    assert model.n_vocab == embedded.VOCABULARY
    model.close()


@pytest.mark.parametrize(
    ("card", "languages"),
    [
        ({"id": "canopylabs/orpheus-3b-0.1-ft", "root": "canopylabs/orpheus-3b-0.1-ft"}, ("en",)),
        ({"id": "canopylabs/3b-fr-ft-research_release"}, ("fr",)),
        ({"id": "orpheus", "root": "canopylabs/3b-de-ft-research_release"}, ("de",)),
        ({"id": "canopylabs/3b-es_it-ft-research_release", "root": "/models/snapshot"}, ("es", "it")),
        ({"id": "orpheus", "meta": {"weights": "lex-au/Orpheus-3b-Hindi-FT-Q8_0.gguf"}}, ("hi",)),
        ({"id": "freddyaboulton/3b-ko-ft-research_release-Q4_K_M-GGUF"}, ("ko",)),
        ({"id": "3b-zh-ft-research_release"}, ("zh",)),
        ({"id": "/models/Orpheus-3b-French-FT-Q8_0.gguf", "meta": {"n_vocab": 156_940}}, ("fr",)),
    ],
)
def test_the_voices_follow_the_name_of_the_model(card: dict[str, Any], languages: tuple[str, ...]) -> None:
    assert languages_of(listed_model({"data": [card]}, load_settings()).name) == languages
    assert languages_of(listed_model({"data": [card]}, load_settings(model="x-korean")).name) == ("ko",)


@pytest.mark.parametrize(
    ("cards", "chosen"),
    [
        ([{"id": "llama-3"}, {"id": "o", "meta": {"n_vocab": 156_940}}], "o"),
        ([{"id": "llama-3", "meta": {"n_vocab": 128_256}}, {"id": "o", "meta": {"n_vocab": 14_601}}], "o"),
        ([{"id": "llama-3"}], "llama-3"),
        ([{"id": "llama-3"}, {"id": "lex-au/Orpheus-3b"}], "lex-au/Orpheus-3b"),
        ([], "orpheus"),
    ],
)
def test_of_several_models_it_asks_for_the_one_that_speaks(cards: list[dict[str, Any]], chosen: str) -> None:
    assert listed_model({"data": cards}, load_settings()).id == chosen
    assert listed_model({"data": cards}, load_settings(model_name="mine")).id == "mine"


def test_several_models_of_which_none_stands_out_have_to_be_named() -> None:
    with pytest.raises(NotReady, match=r"a, b.*ORPHEUS_MODEL_NAME"):
        listed_model({"data": [{"id": "a"}, {"id": "b"}]}, load_settings())


def test_a_context_that_holds_no_sentence_is_refused() -> None:
    with pytest.raises(SetupError, match="--max-model-len"):
        check_fit(ServedModel("m", context_tokens=128), PUBLISHED_CODEC)


def test_codes_that_the_codec_lacks_are_refused() -> None:
    from dataclasses import replace

    small = replace(PUBLISHED_CODEC, codes=1024, channels=64)
    with pytest.raises(SetupError, match="noise"):
        check_fit(ServedModel("m", vocabulary=30_000, codes_per_slot=2048), small)
    check_fit(ServedModel("m", vocabulary=30_000, codes_per_slot=1024), small)  # a voice of one's own
    check_fit(ServedModel("m"), small)  # nothing is known


@pytest.mark.parametrize(
    "answer", [JSONResponse({"error": {"message": "no"}}, 401), Response(status_code=500)]
)
def test_a_tier_1_that_does_not_let_us_ask_is_waited_for(
    answer: Response, upstream: tuple[Upstream, str]
) -> None:
    """A missing key is no reason to take its model for the published one."""
    tier_1, url = upstream
    tier_1.models = answer
    with speech(llama_endpoint=url, postprocess=False) as (client, _):
        eventually(lambda: "Tier 1" in client.get("/ready").json()["reason"])
        tier_1.models = listed(**EMBEDDED)
        eventually(lambda: client.get("/ready").status_code == 200)


class Trickling(Upstream):
    """Half a list of models, until `models` is set."""

    asked = 0

    async def _models(self, request: Request) -> Response:
        self.asked += 1
        return self.models or StreamingResponse(self._half())

    async def _half(self) -> AsyncIterator[bytes]:
        yield b'{"data": ['
        await asyncio.sleep(5)


def test_an_answer_that_trickles_is_no_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not pass for a server that has no list; and it is logged once, not each second."""
    monkeypatch.setattr(token_source, "MODELS_TIMEOUT_S", 0.2)
    monkeypatch.setattr(service, "ASK_S", 0.05)
    tier_1 = Trickling()
    with (
        caplog.at_level("INFO"),
        served(tier_1.app) as url,
        speech(llama_endpoint=url) as (client, _),
    ):
        eventually(lambda: "does not say what it serves" in client.get("/ready").json()["reason"])
        eventually(lambda: tier_1.asked > 3)
        tier_1.models = listed(**EMBEDDED)
        eventually(lambda: client.get("/ready").status_code == 200)
    assert len([line for line in caplog.messages if "does not say what it serves" in line]) == 1
