"""Tier 1 as its clients see it, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orpheus import embedded
from orpheus.errors import EngineError, WeightsError
from orpheus.llama.detokenizer import IncrementalDetokenizer
from orpheus.llama.engine import CompletionChunk, Engine
from orpheus.llama.server import create_app
from tests.support.live import served
from tests.support.llama import TEXT, load, settings

BODY = {"prompt": TEXT, "max_tokens": 140, "seed": 7, "return_token_ids": True}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = create_app(settings(), lambda: load(waiting=2))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        wait_for_health(client)
        yield client


def wait_for_health(client: httpx.Client) -> None:
    deadline = time.monotonic() + 10
    while client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def choice_of(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={**BODY, **body})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def test_a_buffered_answer_holds_whole_frames_and_never_the_end_of_speech(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={**BODY, "max_tokens": 490}).json()
    choice = answer["choices"][0]
    numbers = [int(n) for n in re.findall(r"<custom_token_(\d+)>", choice["text"])]
    assert choice["finish_reason"] == "stop"
    assert len(numbers) % 7 == 0
    assert [(n - 10) // 4096 for n in numbers] == [0, 1, 2, 3, 4, 5, 6] * (len(numbers) // 7)
    assert len(choice["token_ids"]) == len(numbers) == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", None])
def test_a_page_of_another_site_cannot_make_it_work(client: httpx.Client, kind: str | None) -> None:
    headers = {"Origin": "https://evil.example"} | ({"Content-Type": kind} if kind else {})
    refused = client.post("/v1/completions", content=json.dumps(BODY), headers=headers)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "origin_not_allowed"


def test_a_stream_is_one_event_a_frame_and_equals_the_buffered_answer(client: httpx.Client) -> None:
    buffered = choice_of(client)
    response = client.post("/v1/completions", json={**BODY, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response)
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == buffered["text"]
    assert [len(choice["token_ids"]) for choice in choices] == [7] * 20
    assert [choice["finish_reason"] for choice in choices] == [None] * 19 + ["length"]
    assert events[-1]["usage"]["completion_tokens"] == 140


def test_ids_and_text_and_a_batch_of_one_and_a_mixture_give_the_same_tokens(
    client: httpx.Client, engine: Engine
) -> None:
    by_text = choice_of(client)["token_ids"]
    ids = list(engine.tokenize_prompt(TEXT))
    mixed = [ids[0], ids[1], "tara: The boat drifted slowly down the river.", *ids[-4:]]
    for prompt in (ids, [ids], [TEXT], mixed):
        assert choice_of(client, prompt=prompt)["token_ids"] == by_text


def test_options_of_other_front_ends_that_do_not_apply_are_ignored(client: httpx.Client) -> None:
    """Keys of vLLM and llama.cpp, a token's name as a stop, an unknown stop token."""
    extra = {
        "add_special_tokens": False,
        "cache_prompt": True,
        "stop": ["<custom_token_2>", "<custom_token_7>"],
    }
    assert choice_of(client, **extra)["token_ids"] == choice_of(client)["token_ids"]


def test_a_stop_token_ends_the_answer_before_the_frame_it_is_in(client: httpx.Client) -> None:
    ids = choice_of(client)["token_ids"]
    choice = choice_of(client, stop_token_ids=[ids[30]])
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"] == ids[: len(choice["token_ids"])]
    assert len(choice["token_ids"]) % 7 == 0
    assert ids[30] not in choice["token_ids"]


def test_repeat_penalty_is_repetition_penalty(client: httpx.Client) -> None:
    options = {"temperature": 0, "max_tokens": 490}
    ours = choice_of(client, repetition_penalty=1.6, **options)
    assert choice_of(client, repeat_penalty=1.6, **options)["text"] == ours["text"]
    assert choice_of(client, repeat_penalty=1.0, **options)["text"] != ours["text"]


def test_plain_text_prompts_run_unconstrained_and_stop_at_a_string(client: httpx.Client) -> None:
    options = {"prompt": "Once upon", "constrained": False, "temperature": 1.5, "max_tokens": 60}
    whole = choice_of(client, **options)
    assert whole["text"]
    stop = whole["text"][5:8]
    cut = choice_of(client, stop=stop, **options)
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1] * 600}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": "!" * 50_000}, "prompt"),
        ({"prompt": [1, "!" * 50_000]}, "prompt"),
        ({"prompt": [1, *[""] * 65]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"echo": True}, "echo"),
        ({"logprobs": 3}, "logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 2**70}, "top_k"),
        ({"seed": -5}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": ["x" * 257]}, "stop"),
    ],
)
def test_a_wrong_request_is_a_400_that_names_the_key(
    client: httpx.Client, body: dict[str, Any], param: str
) -> None:
    response = client.post("/v1/completions", json={**BODY, **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_errors_have_one_shape_whatever_went_wrong(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for response, status, code in (
        (client.post("/v1/completions", content=b"{", headers=headers), 400, "invalid_json"),
        (client.post("/v1/completions", content=b"\xff\xfe{", headers=headers), 400, "invalid_json"),
        (client.post("/v1/completions", content=b"[" * 100_000, headers=headers), 400, "invalid_json"),
        (client.post("/v1/completions", content=b"[1]", headers=headers), 400, None),
        (client.post("/v1/completions", json={"seed": 1}), 400, "missing_required_parameter"),
        (client.get("/nowhere"), 404, "unknown_url"),
        (client.get("/v1/completions"), 405, "unknown_url"),
        (client.get("/v1/models/other"), 404, "not_found"),
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.json()["error"]["code"] == code


def test_json_without_its_content_type_is_refused_with_the_header_to_send(client: httpx.Client) -> None:
    content = json.dumps(BODY).encode()
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):  # curl -d sends the second
        response = client.post("/v1/completions", content=content, headers=headers)
        assert response.status_code == 400
        assert "send it with Content-Type: application/json" in response.json()["error"]["message"]


def test_an_unforeseen_error_has_the_same_shape(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "submit", lambda *_: 1 / 0)
    response = client.post("/v1/completions", json=BODY)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"


def test_a_body_past_the_limit_is_a_413_before_it_is_read(client: httpx.Client) -> None:
    for body in ({**BODY, "prompt": [1] * 600_000}, {**BODY, "user": "x" * (1 << 21)}):
        response = client.post("/v1/completions", json=body)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
    assert choice_of(client)["text"]


def test_the_model_list_says_what_a_stream_holds(client: httpx.Client) -> None:
    card = client.get("/v1/models").json()["data"][0]
    assert card["meta"] == {
        "streams": 4,
        "context_tokens": 512,
        "codes_per_slot": 2048,
        "n_vocab": 14601,
        "weights": "embedded",
        "fingerprint": card["meta"]["fingerprint"],
    }
    assert client.get(f"/v1/models/{card['id']}").json()["id"] == card["id"]


def test_metrics_are_prometheus_text_with_every_part_of_a_step(client: httpx.Client) -> None:
    choice_of(client)
    text = client.get("/metrics").text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"orpheus_step_seconds", "orpheus_first_frame_seconds", "orpheus_passes"} <= families
    for part in ("plan", "decode", "copy", "sample", "publish"):
        assert re.search(rf'orpheus_step_seconds_sum{{part="{part}"}} [0-9.e-]+', text)
    for name in ("streams_active", "streams_waiting", "rejected_total", "cancelled_total", "tokens_total"):
        assert f"orpheus_{name} " in text


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_stream(client: httpx.Client, stream: bool) -> None:
    body = json.dumps({**BODY, "max_tokens": 480, "stream": stream, "constrained": False, "temperature": 2})
    before = client.get("/health").json()
    cancelled = _count(client, "orpheus_cancelled_total")
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body.encode())
        )
        if stream:
            connection.recv(100)
        else:
            time.sleep(0.03)
    deadline = time.monotonic() + 3
    while client.get("/health").json()["active"]:
        assert time.monotonic() < deadline
    assert before["active"] == 0
    assert _count(client, "orpheus_cancelled_total") == cancelled + 1


def _count(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{name} ([0-9.]+)$", client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/v1/models", "/v1/models/orpheus", "/v1/models/none"]
)
def test_head_is_answered_as_get_without_the_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path", ["/v1//completions", "//v1/completions", "/v1/v1/completions", "/completions/"]
)
def test_a_path_put_together_carelessly_is_served(client: httpx.Client, path: str) -> None:
    url = str(client.base_url).rstrip("/") + path
    assert client.post(url, json=BODY).json()["choices"] == [choice_of(client)]
    assert client.get(str(client.base_url).rstrip("/") + "//models/").status_code == 200


def test_many_sdk_callers_at_once_are_all_served_within_their_two_retries() -> None:
    async def ask_at_once(url: str) -> list[object]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", http_client=openai.DefaultAsyncHttpxClient(trust_env=False)
        ) as sdk:

            async def reason(seed: int) -> object:
                answer = await sdk.completions.create(model="orpheus", prompt=TEXT, max_tokens=70, seed=seed)
                return answer.choices[0].finish_reason

            await asyncio.gather(*map(reason, range(5)))  # so that the server knows how long it takes
            return await asyncio.gather(*map(reason, range(20)), return_exceptions=True)

    engine = load(streams=4, waiting=1)
    context = engine._steps._context
    assert context is not None
    decode = context.decode
    context.decode = lambda rows: (time.sleep(0.005), decode(rows))[1]  # type: ignore[method-assign,func-returns-value]
    with (
        served(create_app(settings(), lambda: engine)) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        wait_for_health(client)
        assert asyncio.run(ask_at_once(url)) == ["length"] * 20
        assert _count(client, "orpheus_rejected_total") >= 15


def test_past_capacity_is_429_with_retry_after() -> None:
    engines: list[Engine] = []

    def load_one() -> Engine:
        engines.append(load(streams=1, waiting=0))
        return engines[0]

    with served(create_app(settings(), load_one)) as url, httpx.Client(base_url=url, timeout=20) as client:
        wait_for_health(client)
        decoding, hold = threading.Event(), threading.Event()
        context = engines[0]._steps._context
        assert context is not None
        decode = context.decode
        context.decode = lambda rows: (decoding.set(), hold.wait(10), decode(rows))[2]  # type: ignore[method-assign]
        first = threading.Thread(target=choice_of, args=(client,))
        first.start()
        assert decoding.wait(10)
        full = client.post("/v1/completions", json=BODY)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["code"] == "rate_limit_exceeded"
        hold.set()
        first.join()
        assert choice_of(client)["text"]


def test_an_error_after_the_start_is_an_event_and_a_broken_body() -> None:
    chosen = settings()
    engines: list[Engine] = []

    def load() -> Engine:
        engines.append(Engine.load(embedded.MODEL, chosen))
        return engines[0]

    def fail(rows: Any) -> int:
        raise EngineError("llama.cpp could not decode (status -3).")

    with served(create_app(chosen, load)) as url, httpx.Client(base_url=url, timeout=20) as client:
        wait_for_health(client)
        received: list[str] = []

        def read() -> None:
            body = {**BODY, "max_tokens": 480, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                for text in answer.iter_text():
                    received.append(text)
                    context = engines[0]._steps._context
                    if context is not None and engines[0].stats.reloads == 0:
                        context.decode = fail  # type: ignore[method-assign]

        with pytest.raises(httpx.RemoteProtocolError):
            read()
        last = json.loads("".join(received).strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "engine_error"
        assert "[DONE]" not in "".join(received)
        assert choice_of(client)["text"]  # the next request works


def test_while_loading_and_after_a_failed_load_health_says_why() -> None:
    release = threading.Event()

    def load() -> Engine:
        release.wait(10)
        raise WeightsError("x.gguf is not a GGUF file: set ORPHEUS_MODEL to one.")

    with served(create_app(settings(), load)) as url, httpx.Client(base_url=url, timeout=20) as client:
        loading = client.get("/health")
        assert (loading.status_code, "loading" in loading.text) == (503, True)
        refused = client.post("/v1/completions", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        release.set()
        deadline = time.monotonic() + 5
        while "not a GGUF" not in client.get("/health").text:
            assert time.monotonic() < deadline
        assert client.get("/health").status_code == 503
        assert "not a GGUF" in client.post("/v1/completions", json=BODY).json()["error"]["message"]


def test_a_slow_load_does_not_delay_shutdown() -> None:
    release = threading.Event()
    loaded: list[Engine] = []

    def load() -> Engine:
        release.wait(10)
        loaded.append(Engine.load(embedded.MODEL, settings()))
        return loaded[0]

    with served(create_app(settings(), load)):
        began = time.monotonic()
    assert time.monotonic() - began < 2
    release.set()
    deadline = time.monotonic() + 5
    while not (loaded and not loaded[0]._thread.is_alive()):  # what came too late is closed
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stop_string_split_over_chunks_is_found_and_no_part_of_it_is_sent() -> None:
    words = {n: character.encode() for n, character in enumerate("one two é END three")}
    words[8], words[9] = b"\xc3", b"\xa9 "  # é in two tokens
    text = IncrementalDetokenizer(words.__getitem__, ["END"], constrained=False)
    out = ""
    for ids in ((0, 1, 2, 3, 4, 5, 6), (7, 8), (9, 10), (11, 12), (13, 14)):
        out += text.detokenize(CompletionChunk(ids, (), None))
        if text.stopped:
            break
    assert (out, text.stopped) == ("one two é ", True)
