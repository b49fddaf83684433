"""`GET /v1/audio/speech`: speech at a URL, for players and `<audio>` elements."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.audio import decode
from tests.support.browser import chromium
from tests.support.speech import PATH, SAMPLES, ask, error_of
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
KEYS = "first-key, second-key"
PAGE = "https://a.example"


def at(**query: Any) -> str:
    return f"{PATH}?{urlencode({'input': 'Hello there.', 'voice': 'tara'} | query, doseq=True)}"


def test_a_url_is_spoken_like_the_same_request_by_post(speech: Start, upstream: Upstream) -> None:
    client = speech()
    options = {
        "response_format": "wav",
        "speed": "1.5",
        "seed": "7",
        "temperature": "0.5",
        "sample_rate": "16000",
    }
    got, posted = client.get(at(**options)), client.post(PATH, json=ask(**options))
    assert got.status_code == 200, got.text
    assert got.content == posted.content
    own = ("x-request-id", "date", "openai-processing-ms")
    for name, value in posted.headers.items():
        assert name in own or got.headers[name] == value
    first, second = ({k: v for k, v in request.items() if k != "headers"} for request in upstream.requests)
    assert first == second


def test_it_is_mp3_and_without_a_length_unless_asked_otherwise(speech: Start) -> None:
    client = speech()
    response = client.get(at())
    assert response.headers["content-type"] == "audio/mpeg"
    assert "content-length" not in response.headers
    assert len(decode(response.content)[0]) >= SAMPLES
    assert client.get(at(stream="false")).headers["content-length"]
    assert client.get(at(stream_format="sse")).headers["content-type"].startswith("text/event-stream")


def test_it_is_sent_while_it_is_generated_and_ends_with_its_player(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.hang_after = whole(20), 5
    with speech().stream("GET", at(response_format="pcm")) as response:
        assert next(response.iter_raw())
    eventually(lambda: upstream.left == 1)  # tier 1 never went on


@pytest.mark.parametrize("range", ["bytes=0-", "bytes=0-1", "bytes=1000-"])
def test_a_player_that_asks_for_a_range_gets_all_of_it(speech: Start, range: str) -> None:
    response = speech().get(at(response_format="pcm"), headers={"Range": range})
    assert response.status_code == 200
    assert len(response.content) == SAMPLES * 2
    assert "accept-ranges" not in response.headers


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"voice": "bob"}, "voice"),
        ({"speed": "9"}, "speed"),
        ({"response_format": "ogg"}, "response_format"),
        ({"seed": "-2"}, "seed"),
        ({"stream": "maybe"}, "stream"),
    ],
)
def test_an_invalid_query_is_refused_in_the_words_of_a_post(
    speech: Start, upstream: Upstream, query: dict[str, str], param: str
) -> None:
    client = speech()
    got, posted = client.get(at(**query)), client.post(PATH, json=ask(**query))
    assert got.status_code == posted.status_code == 400
    assert error_of(got) == error_of(posted)
    assert error_of(got)["param"] == param
    assert upstream.requests == []


def test_a_query_without_input_is_refused(speech: Start) -> None:
    error = error_of(speech().get(f"{PATH}?voice=tara"))
    assert (error["param"], error["code"]) == ("input", "missing_required_parameter")


def test_unknown_empty_and_repeated_parameters_do_no_harm(speech: Start, upstream: Upstream) -> None:
    url = at(voice=["bob", "leo"], response_format="", speed="", seed="-1", lang_code="a", cache="1")
    assert speech().get(url).headers["content-type"] == "audio/mpeg"
    assert "leo: Hello there." in upstream.requests[0]["prompt"]


def test_head_tells_what_a_get_would_be_and_generates_nothing(speech: Start, upstream: Upstream) -> None:
    client = speech()
    for options in (
        {},
        {"response_format": "wav"},
        {"stream_format": "sse"},
        {"voice": "bob"},
        {"input": ""},
    ):
        head = client.head(at(**options))
        assert head.content == b""
        assert upstream.requests == []
        get = client.get(at(**options))
        assert head.status_code == get.status_code
        for name in ("content-type", "x-sample-rate", "cache-control"):
            assert head.headers.get(name) == get.headers.get(name)
        if head.status_code == 200:
            assert "content-length" not in head.headers
        upstream.requests.clear()


def test_head_of_a_cached_answer_has_its_length(speech: Start, upstream: Upstream) -> None:
    client = speech(cache="memory:")
    url = at(seed="4")
    assert client.head(url).headers["x-cache"] == "miss"
    content = client.get(url).content
    head = client.head(url)
    assert (head.headers["x-cache"], head.headers["content-length"]) == ("hit", str(len(content)))
    assert client.post(PATH, json=ask(seed=4)).headers["x-cache"] == "hit"  # one cache for both
    assert len(upstream.requests) == 1


def test_a_full_server_refuses_it_and_its_head(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech(max_requests=1)
    with client.stream("GET", at()) as active:
        chunks = active.iter_raw()
        next(chunks)
        for refused in (client.get(at()), client.head(at())):
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
        next(chunks)  # it still runs
    metrics = client.get("/metrics").text
    assert f'orpheus_speech_requests_total{{format="mp3",route="{PATH}",status="429"}} 2.0' in metrics


def test_the_key_may_be_in_the_url_and_is_never_logged(
    speech: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = speech(keep=True, api_keys=KEYS)
    assert client.get(at(api_key="second-key")).status_code == 200
    assert client.head(at(api_key="second-key")).status_code == 200
    assert client.get(at(), headers={"Authorization": "Bearer first-key"}).status_code == 200
    before = len(upstream.requests)
    for url in (at(), at(api_key="wrong-key"), at(api_key="")):
        assert error_of(client.get(url))["code"] == "invalid_api_key"
        assert client.head(url).status_code == 401
    assert client.post(f"{PATH}?api_key=first-key", json=ask()).status_code == 401  # by GET only
    assert client.get("/v1/nothing?api_key=first-key").status_code == 401
    assert len(upstream.requests) == before
    logged = "".join(f"{r.getMessage()} {vars(r)}" for r in caplog.records if r.name.startswith("orpheus"))
    assert PATH in logged
    for secret in ("first-key", "second-key", "wrong-key"):
        assert secret not in logged


@pytest.mark.parametrize(
    "path",
    [f"/v1/{PATH}", f"/{PATH}", f"{PATH}/", f"//health/..{PATH}", "/v1//audio/speech", "/audio/speech/"],
)
def test_no_spelling_of_the_path_gets_around_the_key(speech: Start, upstream: Upstream, path: str) -> None:
    client = speech(keep=True, api_keys=KEYS)
    url = httpx.URL(str(client.base_url).rstrip("/") + path + "?input=Hello+there.")
    assert client.get(url).status_code == 401
    assert client.head(url).status_code == 401
    assert client.post(url, json=ask()).status_code == 401
    assert upstream.requests == []


def test_it_counts_towards_the_limit_of_its_key(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech(api_keys=KEYS, max_requests_per_key=1)
    with client.stream("GET", at(api_key="first-key")) as active:
        chunks = active.iter_raw()
        next(chunks)
        assert client.get(at(api_key="first-key")).status_code == 429
        assert client.head(at(api_key="second-key")).status_code == 200
        next(chunks)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port, or another name of the same owner
        {"Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/a"},
        {"Origin": "https://evil.example"},
        {"Referer": "http://evil.example/page"},
        {"Origin": "null"},
        {"Referer": "http://[evil"},
    ],
)
def test_a_foreign_page_cannot_make_an_open_server_speak(
    speech: Start, upstream: Upstream, headers: dict[str, str]
) -> None:
    for client in (speech(), speech(keep=True, cors_origins=PAGE)):
        response = client.get(at(), headers=headers)
        assert response.status_code == 403
        assert "ORPHEUS_CORS_ORIGINS" in error_of(response)["message"]
    assert upstream.requests == []


def test_its_own_page_a_listed_page_and_every_player_can(speech: Start) -> None:
    open_to_none = speech()
    host = open_to_none.base_url.netloc.decode()
    for headers in (
        {},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Referer": f"http://{host}/"},
        {"Referer": f"http://{host}/"},
    ):
        assert open_to_none.get(at(), headers=headers).status_code == 200
    listed = speech(keep=True, cors_origins=PAGE)
    for headers in ({"Origin": PAGE}, {"Referer": f"{PAGE}/kiosk"}):
        headers["Sec-Fetch-Site"] = "cross-site"
        assert listed.get(at(), headers=headers).status_code == 200
    assert speech(cors_origins="*").get(at(), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    keyed = speech(keep=True, api_keys=KEYS)  # who knows a key may use it on any page
    assert keyed.get(at(api_key="first-key"), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_a_browser_plays_it_but_not_for_another_site(speech: Start, upstream: Upstream) -> None:
    play = """(url) => new Promise((end) => {
        const audio = new Audio(url);
        audio.muted = true;
        audio.onended = () => end(audio.duration);
        audio.onerror = () => end("refused");
        audio.play().catch(() => {});
    })"""
    base = str(speech().base_url).rstrip("/")
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{base}/live")
        assert page.evaluate(play, base + at()) == pytest.approx(SAMPLES / 24_000, abs=0.15)
        upstream.requests.clear()
        page.goto(base.replace("127.0.0.1", "localhost") + "/live")
        assert page.evaluate(play, base + at()) == "refused"
    assert upstream.requests == []


def test_a_setting_turns_it_off(speech: Start, upstream: Upstream) -> None:
    client = speech(get_speech=False)
    response = client.get(at())
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert client.post(PATH, json=ask()).status_code == 200
    assert set(client.get("/openapi.json").json()["paths"][PATH]) == {"post"}


def test_it_is_in_the_openapi_document_with_all_its_parameters(speech: Start) -> None:
    document = speech().get("/openapi.json").json()
    names = {parameter["name"] for parameter in document["paths"][PATH]["get"]["parameters"]}
    assert names == set(document["components"]["schemas"]["SpeechRequest"]["properties"])
