"""Events, as a client's JSON parser sees them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orpheus.llama.completion import Completion, CompletionChunk
from orpheus.llama.engine import Engine
from orpheus.llama.responses import StreamedCompletion
from orpheus.llama.schema import CompletionRequest
from orpheus.sampling import Sampling

NAME = '50%(text)s of "Orpheus" \\ \x00text'
WORDS = {1: b'"', 2: b"\\", 3: b"100% \n", 4: "é🎻".encode(), 5: b"%(ids)s"}


def streamed(*, constrained: bool, token_ids: bool) -> StreamedCompletion:
    engine = SimpleNamespace(submit=lambda completion: None, token_bytes=WORDS.__getitem__)
    request = CompletionRequest(prompt="x", stream=True, return_token_ids=token_ids)
    completion = Completion((1, 2, 3), 70, Sampling(seed=0), constrained=constrained)
    return StreamedCompletion(request, completion, cast(Engine, engine), NAME)


def events(made: StreamedCompletion, chunk: CompletionChunk) -> list[dict[str, Any]]:
    lines = b"".join(made.events(chunk)).decode().split("\n\n")
    assert lines.pop() == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("token_ids", [True, False])
def test_events_carry_any_text_and_any_name_unharmed(token_ids: bool) -> None:
    made = streamed(constrained=False, token_ids=token_ids)
    found = events(made, CompletionChunk(tuple(WORDS), (), None))
    choices = [event["choices"][0] for event in found]
    assert "".join(choice["text"] for choice in choices) == b"".join(WORDS.values()).decode()
    assert {event["model"] for event in found} == {NAME}
    assert len(found) == (1 if token_ids else len(WORDS))
    if token_ids:
        assert choices[0]["token_ids"] == list(WORDS)


def test_an_event_within_a_stream_has_the_fields_of_the_last_but_its_usage() -> None:
    made = streamed(constrained=True, token_ids=True)
    (first,) = events(made, CompletionChunk((11, 12), (21, 22), None))
    (last,) = events(made, CompletionChunk((13,), (23,), "length"))
    assert first["choices"][0].keys() == last["choices"][0].keys()
    assert last.pop("usage") == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert first.keys() == last.keys()
    assert first["choices"][0]["text"] == "<custom_token_21><custom_token_22>"
    assert (first["choices"][0]["finish_reason"], last["choices"][0]["finish_reason"]) == (None, "length")
