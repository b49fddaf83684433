"""A conversation with a voice of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from orpheus.agent.response import APOLOGIES
from orpheus.errors import UpstreamError
from tests.agent.conftest import Host
from tests.support.agent import RealtimeClient
from tests.support.upstream import Upstream

Talk = Callable[..., RealtimeClient]
FILE = """
- {id: ronan, gender: male, prompt_name: Ronan (calm)}
- {id: layla, language: ar, gender: female, default: true}
"""


@pytest.fixture(scope="module")
def own(start_host: Callable[..., Host]) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start_host(stack, voices=FILE)


def test_a_session_tells_its_voice_and_takes_another(own: Host, talk: Talk, upstream: Upstream) -> None:
    client = talk(at=own)
    assert client.events[0]["session"]["audio"]["output"]["voice"] == "layla"
    session = client.update(audio={"output": {"voice": "Cedar"}})  # OpenAI's, of a man
    assert session["audio"]["output"]["voice"] == "ronan"
    client.say("Hello.")
    response = client.answer()
    assert response["status"] == "completed"
    assert response["audio"]["output"]["voice"] == "ronan"
    assert "<|begin_of_text|>Ronan (calm): " in upstream.requests[-1]["prompt"]


def test_a_voice_that_the_model_has_not_is_refused(own: Host, talk: Talk) -> None:
    client = talk(at=own)
    client.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "leah"}}})
    error = client.until("error")[-1]["error"]
    assert error["code"] == "voice_not_found"
    assert "Use one of layla, ronan" in error["message"]


def test_an_apology_is_in_the_voices_language_or_in_english(
    own: Host, talk: Talk, upstream: Upstream
) -> None:
    client = talk(at=own)
    own.script.thinker.answers = [[UpstreamError("it is gone")]]
    client.say("Hello.")
    client.until("response.done")
    assert APOLOGIES["en"] in upstream.requests[-1]["prompt"]


def test_an_ephemeral_key_tells_the_same_voice(own: Host) -> None:
    answer = httpx.post(f"{own.url}/v1/realtime/client_secrets", json={}, trust_env=False).json()
    assert answer["session"]["audio"]["output"]["voice"] == "layla"
