"""A repeated request with a seed is answered from the cache, byte for byte; no other request is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from orpheus.tts.encode import FORMATS, Format
from tests.support.speech import PATH, ask
from tests.support.upstream import Upstream, event, frame_text, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]


@pytest.mark.parametrize("format", FORMATS)
def test_a_cached_response_has_the_same_bytes_and_a_length(
    speech: Start, upstream: Upstream, format: Format
) -> None:
    client = speech(cache="memory:?mb=1")
    body = ask(seed=7, response_format=format)
    first, second = client.post(PATH, json=body), client.post(PATH, json=body)
    assert len(upstream.requests) == 1
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.content == second.content
    assert int(second.headers["content-length"]) == len(first.content)
    for name in ("content-type", "x-sample-rate", "x-input-chars"):
        assert first.headers[name] == second.headers[name]


def test_cached_events_carry_the_same_bytes_and_usage(speech: Start, upstream: Upstream) -> None:
    client = speech(cache="memory:?mb=1")
    plain = client.post(PATH, json=ask(seed=7))
    responses = [client.post(PATH, json=ask(seed=7, stream_format="sse")) for _ in range(2)]
    starts = []
    for response in responses:
        *deltas, done = [json.loads(line[6:]) for line in response.text.splitlines() if line]
        assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == plain.content
        assert done["usage"]["output_tokens"] > 0
        starts.append([start for delta in deltas for start in delta.get("segments_s", ())])
    assert starts[0] == starts[1] != []
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"input": "Hello here."},
        {"voice": "leo"},
        {"response_format": "wav"},
        {"speed": 1.5},
        {"sample_rate": 16000},
        {"seed": 8},
        {"temperature": 0.9},
        {"top_p": 0.5},
        {"repetition_penalty": 1.3},
        {"max_tokens": 700},
        {"stream": False},
    ],
)
def test_a_parameter_that_changes_the_bytes_misses_the_cache(
    speech: Start, upstream: Upstream, other: dict[str, Any]
) -> None:
    client = speech(cache="memory:?mb=1")
    client.post(PATH, json=ask(seed=7))
    assert client.post(PATH, json=ask(seed=7) | other).headers["x-cache"] == "miss"
    assert client.post(PATH, json=ask(seed=7, voice={"id": "TARA"}, user="x")).headers["x-cache"] == "hit"


def test_without_a_seed_or_the_setting_nothing_is_cached(speech: Start, upstream: Upstream) -> None:
    client = speech(cache="memory:?mb=1")
    for server, body in ((client, ask()), (speech(), ask(seed=7))):
        for _ in range(2):
            assert "x-cache" not in server.post(PATH, json=body).headers
    assert len(upstream.requests) == 4


def test_broken_abandoned_and_truncated_responses_are_not_cached(speech: Start, upstream: Upstream) -> None:
    client = speech(cache="memory:?mb=1")
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(PATH, json=ask(seed=1))
    upstream.events, upstream.break_after = whole(500), None
    with client.stream("POST", PATH, json=ask(seed=1)) as response:
        next(response.iter_raw())
    eventually(lambda: upstream.left)
    upstream.reset()
    upstream.events = [event(frame_text()), event(reason="length"), "data: [DONE]\n\n"]
    assert client.post(PATH, json=ask(seed=1)).status_code == 500
    upstream.reset()
    assert client.post(PATH, json=ask(seed=1)).headers["x-cache"] == "miss"
    assert client.post(PATH, json=ask(seed=1)).headers["x-cache"] == "hit"


def test_the_least_recently_used_responses_are_evicted(speech: Start, upstream: Upstream) -> None:
    upstream.events = whole(80)  # 330 kB of samples: three fit in a megabyte
    client = speech(cache="memory:?mb=1")
    made = 0
    for seed, expected in (
        (1, "miss"),
        (2, "miss"),
        (1, "hit"),
        (3, "miss"),
        (4, "miss"),
        (1, "hit"),
        (2, "miss"),
    ):
        body = ask(seed=seed, response_format="pcm")
        assert client.post(PATH, json=body).headers["x-cache"] == expected, seed
        made += expected == "miss"
        eventually(lambda: written(client) == made * 80 * 2048 * 2)  # noqa: B023


def written(client: httpx.Client) -> float:
    """Bytes that have arrived in the store."""
    found = re.search(r'cache_bytes_total\{work="write"\} (\S+)', client.get("/metrics").text)
    return float(found[1]) if found else 0


def test_a_response_larger_than_the_cache_is_served_but_not_cached(speech: Start, upstream: Upstream) -> None:
    upstream.events = whole(300)
    client = speech(cache="memory:?mb=1")
    for _ in range(2):
        body = ask(seed=1, response_format="pcm", input="word " * 20)  # long enough for so much speech
        response = client.post(PATH, json=body)
        assert response.headers["x-cache"] == "miss"
        assert len(response.content) == 300 * 2048 * 2
