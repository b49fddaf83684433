"""Bodies of tier 2 that are made to cost much, or to be quoted at length: refused in one short sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]
LONG = "x" * 1_000_000


def body(**fields: Any) -> bytes:
    return json.dumps({"input": "Hello there.", "voice": "tara"} | fields).encode()


HOSTILE = {
    "a long input": body(input=LONG),
    "a list for the input": body(input=["x"] * 200_000),
    "nulls for the input": body(input=[None] * 150_000),
    "a long voice": body(voice=LONG),
    "a voice of a long id": body(voice={"id": LONG}),
    "a list for the voice": body(voice=[None] * 150_000),
    "a voice of many keys": body(voice=dict.fromkeys(map(str, range(60_000)))),
    "long instructions": body(instructions=LONG),
    "a list for the instructions": body(instructions=["x"] * 100_000),
    "a long format": body(response_format=LONG),
    "a list for the format": body(response_format=[1] * 100_000),
    "a long speed": body(speed="9" * 1_000_000),
    "a long seed": body(seed="9" * 1_000_000),
    "a list for the seed": body(seed=[1] * 100_000),
    "an infinite speed": b'{"input": "Hello.", "speed": 1e999}',
    "no number": b'{"input": "Hello.", "temperature": NaN}',
    "half an emoji for a voice": b'{"input": "Hello.", "voice": "\\ud83d"}',
    "half an emoji for a format": b'{"input": "Hello.", "response_format": "\\ud83d"}',
    "half a character": b'{"input": "\xf0\x9f\x98"}',
    "a number of a megabyte": b'{"input": %b}' % (b"9" * 1_000_000),
    "open arrays": b'{"input": ' + b"[" * 1_000_000,
    "arrays": b'{"input": [' + b",".join([b"[]"] * 300_000) + b"]}",
    "deep objects": b'{"a":' * 150_000,
}


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/speech/stream"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_in_one_short_sentence(
    speech: Start, upstream: Upstream, name: str, path: str
) -> None:
    response = speech().post(path, content=HOSTILE[name], headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.content) < 600
    assert upstream.requests == []
