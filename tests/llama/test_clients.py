"""Clients of other completions servers against tier 1: what they send, and how they read a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from orpheus.llama.completion import CompletionChunk
from orpheus.llama.server import create_app
from tests.support.live import served
from tests.support.llama import TEXT, load, settings
from tests.support.waiting import eventually

ASKED = {"prompt": TEXT, "max_tokens": 140, "seed": 7}
TEXT_ASKED = {"prompt": "Once upon", "constrained": False, "temperature": 1.5, "max_tokens": 60, "seed": 7}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(create_app(settings(), load)) as url, httpx.Client(base_url=url, timeout=20) as client:
        eventually(lambda: client.get("/health").status_code == 200)
        yield client


def choice_of(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={**ASKED, **body})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def texts_of(client: httpx.Client, body: dict[str, Any]) -> list[str]:
    """The text of each event that has one, as orpheus-tts-local and RealtimeTTS read a stream."""
    texts = []
    with client.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            data = line[6:]
            if data.strip() == "[DONE]":
                break
            event = json.loads(data)
            if event.get("choices") and event["choices"][0].get("text", ""):
                texts.append(event["choices"][0]["text"])
    return texts


def code_of(text: str, index: int) -> int | None:
    """The code that those clients take from an event: of the last token in it, by how many they have read."""
    text = text.strip()
    start = text.rfind("<custom_token_")
    if start < 0 or not text.endswith(">"):
        return None
    try:
        return int(text[start + len("<custom_token_") : -1]) - 10 - index % 7 * 4096
    except ValueError:
        return None


def windows_of(texts: list[str]) -> list[list[int]]:
    """The windows of four frames that those clients decode, the last 28 codes after every seventh token."""
    codes: list[int] = []
    windows = []
    for text in texts:
        code = code_of(text, len(codes))
        if code is not None and code > 0:
            codes.append(code)
            if len(codes) % 7 == 0 and len(codes) > 27:
                windows.append(codes[-28:])
    return windows


# What each of them puts into its request, apart from the prompt.
FRONT_ENDS = {
    "orpheus-tts-local": {
        "model": "orpheus-3b-0.1-ft-q4_k_m",
        "temperature": 0.6,
        "top_p": 0.9,
        "repeat_penalty": 1.1,
        "stream": True,
    },
    "RealtimeTTS": {
        "model": "orpheus-3b-0.1-ft",
        "temperature": 0.6,
        "top_p": 0.9,
        "repeat_penalty": 1.1,
        "stream": True,
    },
    "llama.cpp's defaults sent back": {
        "stream": True,
        "n_predict": -1,
        "temperature": 0.8,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_last_n": 64,
        "samplers": ["top_k", "min_p", "temperature"],
        "cache_prompt": True,
        "stop": ["<custom_token_2>"],
    },
}


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_front_end_that_reads_the_last_token_of_each_event_hears_every_frame(
    client: httpx.Client, front_end: str
) -> None:
    body = {**ASKED, **FRONT_ENDS[front_end]}
    texts = texts_of(client, body)
    windows = windows_of(texts)
    assert len(texts) % 7 == 0
    assert len(texts) >= 7 * 10
    assert len(windows) == len(texts) // 7 - 3
    assert all(0 <= code < 4096 for window in windows for code in window)


def test_a_stream_by_token_equals_the_buffered_answer_and_ends_as_it_does(client: httpx.Client) -> None:
    whole = client.post("/v1/completions", json=ASKED).json()
    response = client.post("/v1/completions", json={**ASKED, "stream": True})
    *lines, done = [line for line in response.text.split("\n\n") if line]
    assert done == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert {choice["text"].count("<custom_token_") for choice in choices} == {1}
    assert [choice["finish_reason"] for choice in choices] == [None] * 139 + ["length"]
    assert [event["usage"] for event in events if "usage" in event] == [whole["usage"]]
    assert all("token_ids" not in choice for choice in choices)


def test_a_stream_that_ends_with_the_speech_has_no_token_after_it(client: httpx.Client) -> None:
    texts = texts_of(client, {**ASKED, "max_tokens": 490, "stream": True})
    assert len(texts) % 7 == 0
    assert all("<custom_token_2>" not in text for text in texts)


def test_a_client_that_asks_for_ids_gets_a_frame_an_event(client: httpx.Client) -> None:
    texts = texts_of(client, {**ASKED, "stream": True, "return_token_ids": True})
    assert [text.count("<custom_token_") for text in texts] == [7] * 20
    assert "".join(texts) == "".join(texts_of(client, {**ASKED, "stream": True}))


def test_plain_text_is_streamed_by_token_up_to_a_stop_string(client: httpx.Client) -> None:
    whole = choice_of(client, **TEXT_ASKED)
    texts = texts_of(client, {**TEXT_ASKED, "stream": True})
    assert "".join(texts) == whole["text"]
    assert len(texts) > 60 / 2  # some tokens are parts of a character
    stop = whole["text"][5:8]
    cut = texts_of(client, {**TEXT_ASKED, "stream": True, "stop": stop})
    assert "".join(cut) == whole["text"][: whole["text"].index(stop)]


def test_a_chunk_by_token_keeps_its_ids_numbers_and_reason() -> None:
    chunk = CompletionChunk((5, 6, 7), (10, 11, 12), "length")
    parts = list(chunk.by_token())
    assert [part.ids for part in parts] == [(5,), (6,), (7,)]
    assert [part.numbers for part in parts] == [(10,), (11,), (12,)]
    assert [part.finish_reason for part in parts] == [None, None, "length"]
    empty = CompletionChunk((), (), "stop")
    assert list(empty.by_token()) == [empty]


OPTIONAL = (
    "model", "stream", "stream_options", "max_tokens", "n_predict", "max_completion_tokens", "temperature",
    "top_p", "top_k", "min_p", "repetition_penalty", "repeat_penalty", "seed", "stop", "stop_token_ids",
    "return_token_ids", "constrained", "n", "best_of", "echo", "suffix", "logprobs", "logit_bias", "user",
)  # fmt: skip


@pytest.mark.parametrize("key", OPTIONAL)
@pytest.mark.parametrize("value", [None, ""], ids=["null", "empty"])
def test_a_key_that_is_null_or_empty_is_unset(client: httpx.Client, key: str, value: Any) -> None:
    bound = {} if key in ("n_predict", "max_completion_tokens") else {"max_tokens": 14}
    answer = client.post("/v1/completions", json={"prompt": TEXT, "seed": 7, **bound, key: value})
    assert answer.status_code == 200, answer.text
    assert "<custom_token_" in answer.json()["choices"][0]["text"]


def test_all_keys_may_be_null_at_once(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={**dict.fromkeys(OPTIONAL), "prompt": TEXT})
    assert answer.status_code == 200, answer.text
    assert "<custom_token_" in answer.json()["choices"][0]["text"]


@pytest.mark.parametrize(
    "unset",
    [
        {"max_tokens": -1},
        {"max_tokens": -2},
        {"max_tokens": "-1"},
        {"n_predict": -1},
        {"n_predict": -2},
        {"max_completion_tokens": -1},
        {"max_tokens": None, "n_predict": -1},
    ],
    ids=str,
)
def test_as_many_tokens_as_the_setting_allows_if_the_limit_is_below_zero(
    client: httpx.Client, unset: dict[str, Any]
) -> None:
    plain = client.post("/v1/completions", json={"prompt": TEXT, "seed": 7}).json()
    answer = client.post("/v1/completions", json={"prompt": TEXT, "seed": 7, **unset}).json()
    assert answer["choices"][0]["text"] == plain["choices"][0]["text"]


def test_a_null_leaves_the_key_to_its_other_name(client: httpx.Client) -> None:
    text = choice_of(client, max_tokens=None, n_predict=14)["text"]
    assert text.count("<custom_token_") == 14


@pytest.mark.parametrize("seed", [None, -1, "-1", 4294967295, ""], ids=str)
def test_a_seed_that_means_any_is_a_fresh_one_each_time(client: httpx.Client, seed: Any) -> None:
    assert choice_of(client, seed=seed)["text"] != choice_of(client, seed=seed)["text"]


@pytest.mark.parametrize(
    "value",
    [
        {"top_k": -1},
        {"top_k": 0},
        {"stop": []},
        {"stop": [""]},
        {"stop_token_ids": []},
        {"n": 1},
        {"n": "1"},
        {"best_of": 1},
        {"logprobs": False},
        {"logprobs": 0},
        {"echo": False},
        {"suffix": ""},
        {"seed": "7"},
        {"max_tokens": "140"},
        {"stream": "false"},
        {"stream_options": {"include_usage": True}},
        {"logit_bias": {"5": -100}},
        {"repeat_last_n": 64, "samplers": ["top_k"], "cache_prompt": True, "dry_multiplier": 0.0},
    ],
    ids=str,
)
def test_what_other_clients_send_as_the_default_changes_nothing(
    client: httpx.Client, value: dict[str, Any]
) -> None:
    assert choice_of(client, **value)["text"] == choice_of(client)["text"]


@pytest.mark.parametrize("body", [{"max_tokens": -3}, {"seed": -2}, {"n": 0}, {"temperature": -1}], ids=str)
def test_other_numbers_below_zero_are_still_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    response = client.post("/v1/completions", json={**ASKED, **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, *body)
