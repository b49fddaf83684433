"""What users of other voice agents complain of, each as a conversation that goes right here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from orpheus.agent.think import Message, ToolCall, ToolCallDelta
from tests.agent.conftest import Host
from tests.support.agent import (
    RealtimeClient,
    Talk,
    audio_of,
    pcm16,
    silence,
    transcript_of,
    types,
    without_deltas,
)
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

LONG = ["One two three four five six seven. ", "Eight nine ten eleven twelve thirteen. ", "The end of it."]


@pytest.fixture
def speaking(talk: Talk, host: Host, upstream: Upstream) -> Callable[..., RealtimeClient]:
    """A conversation whose agent is in the middle of a long answer, about half a second of which was heard."""

    def begin(answer: list[Any] | None = None, **session: Any) -> RealtimeClient:
        upstream.events = whole(40)  # 3.4 s a segment
        host.script.thinker.answers = [answer or LONG, ["All right."]]
        client = talk(**session)
        client.say("Tell me a story.")
        client.until("response.output_audio.delta")
        time.sleep(0.5)
        return client

    return begin


def interrupted(client: RealtimeClient, text: str = "No wait, stop that.") -> list[dict[str, Any]]:
    """The events from the interruption on, up to the end of the response that was cut off."""
    client.hear(client.script.speech.say(text, 960))
    client.until("input_audio_buffer.speech_started")
    return client.until("response.done")


def test_1_a_listeners_mm_hmm_does_not_stop_the_answer(speaking: Callable[..., RealtimeClient]) -> None:
    client = speaking()
    client.say("Mm-hmm.", ms=448)
    events = client.until("response.done")
    assert "input_audio_buffer.speech_started" not in types(events)
    assert "input_audio_buffer.committed" not in types(events)
    assert events[-1]["response"]["status"] == "completed"


def test_2_a_short_stop_is_heard_at_once(speaking: Callable[..., RealtimeClient]) -> None:
    client = speaking()
    client.hear(client.script.speech.say("Stop!", 480))
    started = client.until("input_audio_buffer.speech_started")[-1]
    assert client.until("response.done")[-1]["response"]["status"] == "cancelled"
    assert started["audio_start_ms"] < 960 + 700 + 32


def test_2_words_with_pauses_between_them_stop_it_too(speaking: Callable[..., RealtimeClient]) -> None:
    client = speaking()
    client.script.recognizer.pause_s = 0.15  # longer than it takes to go on
    say = client.script.speech.say
    client.hear(say("No,", 288) + silence(224) + say("stop,", 288) + silence(224) + say("please", 288))
    client.until("input_audio_buffer.speech_started")
    assert client.until("response.done")[-1]["response"]["status"] == "cancelled"
    assert client.events[-1]["response"]["output"][0]["content"][0]["transcript"] != ""


def test_3_its_own_voice_in_the_microphone_makes_no_turn(speaking: Callable[..., RealtimeClient]) -> None:
    client = speaking()
    heard = np.frombuffer(audio_of(client.events), "<i2").astype(np.float32) / 32767
    before = len(client.events)
    client.hear(silence(180) + pcm16(heard[:48_000] * 0.1))  # 20 dB fainter, and later
    client.hear(silence(700))
    client.until("response.done")
    assert "input_audio_buffer.speech_started" not in types(client.events[before:])


@pytest.mark.parametrize(("number", "cut"), [(4, 10**9), (5, 0), (4, -5)])
def test_4_and_5_truncation_beyond_the_audio_or_at_its_beginning_is_accepted(
    speaking: Callable[..., RealtimeClient], host: Host, number: int, cut: int
) -> None:
    client = speaking()
    item = interrupted(client)[-1]["response"]["output"][0]
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=cut)
    truncated = client.until("conversation.item.truncated")[-1]
    assert 0 <= truncated["audio_end_ms"] <= 11_000
    client.hear(silence(700))
    client.answer()
    said = [text for role, text in host.script.thinker.last if role == "assistant"]
    assert said == [] if cut <= 0 else said[0].startswith("One two")
    client.send("conversation.item.truncate", item_id="item_unknown", content_index=0, audio_end_ms=cut)
    assert client.until("error")[-1]["error"]["code"] == "item_not_found"


def test_6_the_history_holds_the_words_that_were_heard_and_no_others(
    speaking: Callable[..., RealtimeClient], host: Host
) -> None:
    client = speaking()
    item = interrupted(client)[-1]["response"]["output"][0]
    heard = item["content"][0]["transcript"]
    assert item["status"] == "incomplete"
    # About half a second of 3.4 s for seven words: one or two, and never what was sent ahead.
    assert 0 < len(heard.split()) <= 3
    assert "One two three".startswith(heard)
    client.hear(silence(700))
    client.answer()
    assert ("assistant", heard) in host.script.thinker.last
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=2000)
    client.until("conversation.item.truncated")
    client.send("conversation.item.retrieve", item_id=item["id"])
    corrected = client.until("conversation.item.retrieved")[-1]["item"]["content"][0]["transcript"]
    assert corrected.startswith("One two three four")
    assert "seven" not in corrected


def test_7_nothing_of_the_old_answer_follows_an_interruption(speaking: Callable[..., RealtimeClient]) -> None:
    client = speaking()
    events = interrupted(client)
    old = events[-1]["response"]["id"]
    assert without_deltas(events) == types(events) == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]  # fmt: skip
    assert events[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    client.hear(silence(700))
    after = client.until("response.done")
    assert {event["response_id"] for event in after if "response_id" in event} == {
        after[-1]["response"]["id"]
    }
    assert after[-1]["response"]["id"] != old
    assert transcript_of(after) == "All right."


def test_8_fifty_interruptions_in_a_row_leave_nothing_behind(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(40)
    host.script.thinker.answers = [LONG]
    client = talk()
    for number in range(50):
        client.say(f"Question number {number % 8}.", ms=640)
        client.until("response.created")
    client.until("response.done", timeout_s=30)
    while client.events[-1]["response"]["status"] != "completed":
        client.until("response.done", timeout_s=30)
    client.idle()
    eventually(lambda: host.service.admission.active == 0)
    assert host.service.codec_report()["open_streams"] == 0
    assert types(client.events).count("response.created") == types(client.events).count("response.done") == 50
    assert len([e for e in client.events if e["type"] == "input_audio_buffer.committed"]) == 50


def test_9_sound_without_words_is_no_turn(talk: Talk, host: Host) -> None:
    client = talk()
    noise = np.random.default_rng(1).normal(0, 0.05, 24_000)
    host.script.recognizer.speech.text = lambda _: ""  # type: ignore[method-assign]
    client.hear(pcm16(noise) + silence(1000))
    events = [*client.flush(), *client.quiet()]
    assert "input_audio_buffer.committed" not in types(events)
    assert "response.created" not in types(events)
    assert host.script.thinker.asked == []


def test_10_a_pause_in_mid_thought_is_one_turn_and_its_answer_is_taken_back(talk: Talk, host: Host) -> None:
    client = talk()
    say = client.script.speech.say
    client.hear(say("I would like", 640) + silence(320))
    eventually(lambda: host.script.thinker.asked)  # an answer is being prepared
    client.hear(say("a cup of tea.", 640) + silence(700))
    events = client.until("response.done")
    assert without_deltas(events).count("conversation.item.added") == 2
    assert types(events).count("input_audio_buffer.speech_started") == 1
    assert types(events).count("response.created") == 1
    assert host.script.thinker.last == [("user", "I would like a cup of tea.")]
    client.idle()


def test_11_without_create_response_nothing_is_answered_by_itself(talk: Talk, host: Host) -> None:
    detection = {"type": "server_vad", "create_response": False, "silence_duration_ms": 300}
    client = talk(audio={"input": {"turn_detection": detection}})
    client.say("Just listen.")
    events = [
        *client.until("conversation.item.input_audio_transcription.completed"),
        *client.quiet(),
    ]
    stopped = next(event for event in events if event["type"] == "input_audio_buffer.speech_stopped")
    assert 960 + 290 <= stopped["audio_end_ms"] <= 960 + 420
    assert "response.created" not in types(events)
    client.send("response.create")
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last == [("user", "Just listen.")]


def call(name: str = "get_weather", arguments: str = '{"city": "Rome"}') -> list[Any]:
    half = len(arguments) // 2
    return [
        ToolCallDelta(0, "call_1", name, arguments[:half]),
        ToolCallDelta(0, None, None, arguments[half:]),
    ]


def test_12_an_answer_after_a_preamble_is_truncated_by_itself(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(12)
    host.script.thinker.answers = [["Let me look.", *call()], ["It is sunny in Rome today."]]
    client = talk()
    client.say("How is the weather?")
    first = client.answer()
    client.send(
        "conversation.item.create",
        item={"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    )
    client.send("response.create")
    second = client.answer()
    item = second["output"][0]
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=0)
    client.until("conversation.item.truncated")
    client.send("response.create", response={"output_modalities": ["text"]})
    client.answer()
    assert [message for message in host.script.thinker.asked[-1] if message.role == "assistant"] == [
        Message("assistant", "Let me look."),
        Message("assistant", tool_calls=(ToolCall("call_1", "get_weather", '{"city": "Rome"}'),)),
    ]
    assert [output["type"] for output in first["output"]] == ["message", "function_call"]


def test_13_the_metadata_of_a_request_come_back_as_they_were(talk: Talk) -> None:
    client = talk()
    metadata = {"client_event_id": "evt_1", "topic": "weather"}
    client.send("response.create", response={"metadata": metadata})
    created = client.until("response.created")[-1]
    assert created["response"]["metadata"] == metadata
    assert client.answer()["metadata"] == metadata


def test_14_a_tool_result_after_an_interruption_does_not_speak_over_the_human(
    speaking: Callable[..., RealtimeClient], host: Host
) -> None:
    client = speaking([*LONG, *call()])
    assert "response.function_call_arguments.done" in types(client.events)
    interrupted(client, "No, tell me about Paris instead.")
    client.send(
        "conversation.item.create",
        item={"type": "function_call_output", "call_id": "call_1", "output": "sunny in Rome"},
    )
    client.send("response.create", response={"metadata": {"for": "the tool"}})
    client.until("conversation.item.done")
    assert "response.created" not in types([*client.flush(), *client.quiet()])  # the human is still speaking
    client.hear(silence(700))
    events = [*client.until("response.done"), *client.quiet()]
    assert types(events).count("response.created") == 1
    assert events[[*types(events)].index("response.created")]["response"]["metadata"] == {"for": "the tool"}
    assert host.script.thinker.last[-1] == ("user", "No, tell me about Paris instead.")


def test_15_a_microphone_that_is_muted_for_ten_minutes_ends_nothing(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = talk()
    for _ in range(10):  # ten minutes of silence
        client.hear(silence(60_000), chunk_ms=10_000)
    # And of nothing at all: as if each of the socket's limits had passed meanwhile.
    monkeypatch.setattr("orpheus.server.sockets.connection.FIRST_TEXT_S", 0.0)
    monkeypatch.setattr("orpheus.server.sockets.connection.IDLE_S", 0.0)
    assert types([*client.flush(), *client.quiet(0.5)]) == []
    client.say("Are you still there?")
    assert client.answer()["status"] == "completed"
