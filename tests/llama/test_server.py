"""Tier 1 as its clients see it, over real HTTP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from orpheus import embedded
from orpheus.llama.loop import Engine
from orpheus.llama.server import create_app
from tests.llama.conftest import TEXT, serving, settings

BODY = {"prompt": TEXT, "max_tokens": 140, "seed": 7, "return_token_ids": True}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    chosen = settings(waiting=2)
    app = create_app(chosen, lambda: Engine.load(embedded.MODEL, chosen))
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as client:
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
