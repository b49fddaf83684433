"""The stages of a turn as spans: hear, think, speak."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from opentelemetry.trace import StatusCode

from orpheus.errors import UpstreamError
from orpheus.tts.encode import wav_header
from tests.agent.conftest import Host
from tests.support.agent import OUT_RATE, Talk
from tests.support.traces import Traces, attributes, recorded

QUESTION, ANSWER = "Where does the river end?", "It ends in the northern sea."


@pytest.fixture
def traced(start_host: Callable[..., Host]) -> Iterator[tuple[Host, Traces]]:
    with ExitStack() as stack:
        traces = stack.enter_context(recorded())
        yield start_host(stack), traces


def test_a_turn_is_heard_thought_and_spoken_below_its_conversation(
    traced: tuple[Host, Traces], talk: Talk
) -> None:
    host, traces = traced
    host.script.thinker.answers = [[ANSWER], [UpstreamError(f"No answer to {QUESTION!r}.")]]
    client = talk(at=host)
    client.say(QUESTION)
    client.until("response.done")
    client.say(QUESTION)
    client.until("response.done")
    client.socket.close()
    (conversation,) = traces.wait_for("WS /v1/realtime")
    stages = traces.below(conversation)
    assert {span.name for span in stages} == {"hear", "response"}
    assert len(traces.named("hear")) >= 2
    answered, failed = traces.named("response")
    assert traces.tree(answered)[:2] == ["think", "speak"]
    assert ".segment" in traces.tree(answered)
    for name in ("llm_first_token_ms", "first_audio_ms", "end_to_audio_ms"):
        assert attributes(answered)[name] is not None
    think = traces.below(failed)[0]
    assert [span.status.status_code for span in (answered, failed, think)] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.ERROR,
    ]
    told = "".join(span.to_json() for span in traces.spans)
    assert "river" not in told
    assert "sea" not in told


def test_an_answered_recording_is_heard_and_thought_below_its_request(traced: tuple[Host, Traces]) -> None:
    host, traces = traced
    samples = host.script.speech.say(QUESTION)
    answer = httpx.post(
        f"{host.url}/v1/audio/speech-to-speech?voice=tara",
        content=wav_header(OUT_RATE, len(samples)) + samples,
        headers={"Content-Type": "audio/wav"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 200
    (request,) = traces.wait_for("POST /v1/audio/speech-to-speech")
    assert [span.name for span in traces.below(request)][:2] == ["hear", "think"]
    assert "segment" in traces.tree(request)
