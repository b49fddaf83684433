"""Bodies of tier 1 that are made to cost much: refused early, in one short sentence, with the event loop free."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from benchmarks.faults.bodies import COMPLETION_BODIES, ODD_COMPLETION_BODIES
from orpheus.errors import BadRequest
from orpheus.http.body_limit import MAX_JSON_PARTS, check_json_parts
from orpheus.llama.engine import Engine
from orpheus.llama.schema import MAX_PROMPT_PARTS, MAX_STOP_IDS, MAX_STOPS, CompletionRequest
from orpheus.llama.server import TOKENIZED_AT_ONCE, create_app
from tests.support.live import served
from tests.support.llama import TEXT, engine_of, load, settings
from tests.support.waiting import eventually

JSON = {"Content-Type": "application/json"}
MANY = 200_000


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(create_app(settings(), load)) as url, httpx.Client(base_url=url, timeout=20) as client:
        eventually(lambda: client.get("/health").status_code == 200)
        yield client


@pytest.mark.parametrize("name", COMPLETION_BODIES)
def test_a_hostile_body_is_refused_in_one_short_sentence(client: httpx.Client, name: str) -> None:
    body, param = COMPLETION_BODIES[name]
    response = client.post("/v1/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert len(response.content) < 500


@pytest.mark.parametrize("name", ODD_COMPLETION_BODIES)
def test_what_is_odd_and_costs_little_is_served(client: httpx.Client, name: str) -> None:
    response = client.post("/v1/completions", content=ODD_COMPLETION_BODIES[name], headers=JSON)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("value", [[None] * MANY, [[None] * MANY], [1.5] * 100, [[1.5] * 100, 1]])
@pytest.mark.parametrize("key", ["prompt", "stop", "stop_token_ids"])
def test_the_first_wrong_item_ends_the_checking(key: str, value: list[Any]) -> None:
    with pytest.raises((ValidationError, BadRequest)) as caught:
        CompletionRequest.model_validate({"prompt": "x", key: value})
    if isinstance(caught.value, ValidationError):
        assert caught.value.error_count() <= 6  # the kinds a value may be of, not its items


@pytest.mark.parametrize(
    ("key", "item", "most"),
    [("prompt", 1, MAX_PROMPT_PARTS), ("stop", "s", MAX_STOPS), ("stop_token_ids", 1, MAX_STOP_IDS)],
)
def test_a_list_may_have_as_many_items_as_its_bound_and_no_more(key: str, item: Any, most: int) -> None:
    CompletionRequest.model_validate({"prompt": "x", key: [item] * most})
    with pytest.raises(BadRequest, match=f"{most + 1} items"):
        CompletionRequest.model_validate({"prompt": "x", key: [item] * (most + 1)})


def test_brackets_are_counted_in_any_encoding() -> None:
    text = "[" * (MAX_JSON_PARTS // 2) + "{" * (MAX_JSON_PARTS // 2)
    check_json_parts(text)
    check_json_parts(text.encode())
    for more in (text + "[", (text + "{").encode(), (text + "{").encode("utf-16")):
        with pytest.raises(BadRequest, match="flatter"):
            check_json_parts(more)


def test_a_prompt_that_is_slow_to_tokenize_delays_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize, started, go_on = Engine.tokenize_prompt, threading.Semaphore(0), threading.Event()

    def slow(self: Engine, prompt: str, *, verbatim: bool = False) -> tuple[int, ...]:
        if "slow" in prompt:
            started.release()
            assert go_on.wait(20)
        return tokenize(self, prompt, verbatim=verbatim)

    monkeypatch.setattr(Engine, "tokenize_prompt", slow)
    count = 2 * TOKENIZED_AT_ONCE
    body = {"prompt": TEXT.replace("slowly", "slow"), "max_tokens": 7, "seed": 1}
    with (
        served(create_app(settings(), load)) as url,
        httpx.Client(base_url=url, timeout=20) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        eventually(lambda: client.get("/health").status_code == 200)
        asked = [
            pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=20) for _ in range(count)
        ]
        for _ in range(TOKENIZED_AT_ONCE):
            assert started.acquire(timeout=10)
        try:
            assert client.get("/health").json()["status"] == "ok"
            assert not started.acquire(timeout=0.2), "no more than so many are tokenized at once"
        finally:
            go_on.set()
        assert [answer.result().status_code for answer in asked] == [200] * count


def test_closing_the_engine_waits_for_a_text_that_is_being_tokenized() -> None:
    with engine_of() as engine, ThreadPoolExecutor(4) as pool:
        model = engine._model
        texts = [
            pool.submit(model.tokenize, "<" * 2000, add_bos=False, parse_special=False) for _ in range(4)
        ]
        assert len({tuple(text.result()) for text in texts}) == 1
        with model._reading():
            closing = pool.submit(engine.close)
            with pytest.raises(TimeoutError):
                closing.result(0.2)
        closing.result(10)
        with pytest.raises(Exception, match="closed"):
            model.token_bytes(1)
