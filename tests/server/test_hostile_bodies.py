"""Bodies of tier 2 that are made to cost much, or to be quoted at length: refused in one short sentence."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from benchmarks.faults.bodies import SPEECH_BODIES
from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/speech/stream"])
@pytest.mark.parametrize("name", SPEECH_BODIES)
def test_a_hostile_body_is_refused_in_one_short_sentence(
    speech: Start, upstream: Upstream, name: str, path: str
) -> None:
    response = speech().post(path, content=SPEECH_BODIES[name], headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.content) < 600
    assert upstream.requests == []
