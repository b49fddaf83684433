"""OpenAI's Realtime protocol over a scripted agent and the real voice; every event is held against OpenAI's models."""

from __future__ import annotations

from tests.agent.conftest import Host
from tests.support.agent import Talk, audio_of, transcript_of, types, without_deltas
from tests.support.upstream import Upstream, whole

SPOKEN_TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.input_audio_transcription.completed",
]
SPOKEN_ANSWER = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


def test_a_question_is_answered_with_events_in_the_order_that_clients_take(talk: Talk, host: Host) -> None:
    client = talk()
    client.say("What is the time?")
    events = client.until("response.done")
    assert without_deltas(events) == SPOKEN_TURN + SPOKEN_ANSWER
    assert host.script.thinker.last == [("user", "What is the time?")]
    assert transcript_of(events) == "Hello there, my friend."
    assert len(audio_of(events)) > 2 * 24_000 * 0.3
    ids = {event["item_id"] for event in events[:3]}
    assert ids == {events[3]["item"]["id"]}
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [
        {"type": "output_audio", "transcript": "Hello there, my friend."}
    ]
    assert response["usage"]["total_tokens"] == 17
    assert response["orpheus"]["end_to_audio_ms"] > 0
