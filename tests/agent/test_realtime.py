"""OpenAI's Realtime protocol over a scripted agent and the real voice; every event is held against OpenAI's models."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any, get_args

import numpy as np
import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import ValidationError
from starlette.responses import JSONResponse
from websockets import Subprotocol
from websockets.sync.client import connect

from orpheus.agent.audio import AudioFormat, OutputStream
from orpheus.agent.think import ToolCallDelta
from orpheus.errors import UpstreamError
from tests.agent.conftest import Host
from tests.support.agent import STRICT, Talk, audio_of, silence, transcript_of, types, without_deltas
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

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


def test_the_session_is_told_whole_and_merged_at_every_depth(talk: Talk) -> None:
    client = talk("/v1/realtime?model=gpt-realtime")
    session = client.events[0]["session"]
    assert session["model"] == "gpt-realtime"
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert session["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    detection = {"silence_duration_ms": 300, "unheard_of": 1}
    updated = client.update(audio={"input": {"turn_detection": detection}}, tracing="auto")
    assert updated["tracing"] == "auto"
    assert updated["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300
    assert updated["audio"]["input"]["turn_detection"]["threshold"] == 0.5
    nothing = client.update(
        audio={"input": {"turn_detection": None, "transcription": None}}, instructions=None
    )
    assert nothing["audio"]["input"]["turn_detection"] is None
    assert nothing["audio"]["input"]["transcription"] is None
    assert nothing["instructions"] == session["instructions"]
    semantic = client.update(
        audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}}
    )
    assert semantic["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad", "eagerness": "low", "create_response": True, "interrupt_response": True,
    }  # fmt: skip


def test_a_wrong_update_is_told_with_its_field_and_its_event_and_changes_nothing(talk: Talk) -> None:
    client = talk()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"audio": {"output": {"voice": "nobody"}}}, "voice"),
        ({"audio": {"output": {"speed": 9}}}, "session.audio.output.speed"),
        ({"audio": {"input": {"turn_detection": {"threshold": 3}}}}, "session.audio.input.turn_detection.threshold"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 44_100}}}}, "session.audio.input.format.rate"),
        ({"type": "transcription"}, "session.type"),
        ({"tools": [{"type": "function"}]}, "session.tools.0.name"),
        ({"max_output_tokens": 0}, "session.max_output_tokens"),
    ]  # fmt: skip
    for number, (changes, param) in enumerate(wrong):
        client.send("session.update", session=changes, event_id=f"e{number}")
        error = client.until("error")[-1]["error"]
        assert error["event_id"] == f"e{number}"
        assert error["type"] == "invalid_request_error"
        assert error["param"].startswith(param)
    assert client.update()["audio"] == client.events[0]["session"]["audio"]


def test_malformed_huge_and_unknown_events_are_told_and_the_conversation_goes_on(
    talk: Talk, host: Host
) -> None:
    client = talk()
    deep = "[" * 100_000
    for message in ("", "nonsense", "[]", "null", '{"type": 3}', '{"a": ' + deep, '"' + "x" * 900_000, b"\0"):
        client.socket.send(message)
        assert client.until("error")[-1]["error"]["message"]
    for body in (
        {"type": "input_audio_buffer.append"},
        {"type": "input_audio_buffer.append", "audio": "%%%"},
        {"type": "input_audio_buffer.append", "audio": ["a"]},
        {"type": "conversation.item.create"},
        {"type": "conversation.item.create", "item": {"type": "message", "role": "robot"}},
        {"type": "conversation.item.create", "item": {"type": "message", "content": "text"}},
        {"type": "conversation.item.create", "item": {"type": "function_call_output", "output": "x"}},
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "content": []},
            "previous_item_id": "no",
        },
        {"type": "conversation.item.retrieve", "item_id": "item_none"},
        {"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": "soon"},
        {"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": float("nan")},
        {"type": "conversation.item.delete"},
        {"type": "response.create", "response": {"metadata": {"a": 1}}},
        {"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "none"}]}},
        {"type": "response.create", "response": {"audio": {"output": {"voice": "nobody"}}}},
        {"type": "response.cancel"},
        {"type": "input_audio_buffer.commit"},
    ):
        client.send(**body)  # type: ignore[arg-type]
        client.until("error")
    client.say("Still there?")
    assert client.answer()["status"] == "completed"


def test_the_codes_of_errors_are_openais(talk: Talk, upstream: Upstream) -> None:
    upstream.events = whole(40)
    client = talk()
    client.send("response.cancel", event_id="c")
    cancel = client.until("error")[-1]["error"]
    assert cancel["code"] == "response_cancel_not_active"
    assert cancel["message"] == "Cancellation failed: no active response found"
    assert cancel["event_id"] == "c"
    client.send("input_audio_buffer.commit")
    assert client.until("error")[-1]["error"]["code"] == "input_audio_buffer_commit_empty"
    client.send("response.create")
    client.until("response.created")
    client.send("response.create")
    active = client.until("error")[-1]["error"]
    assert active["code"] == "conversation_already_has_active_response"
    client.send("response.cancel")
    done = client.until("response.done")[-1]["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}


def test_a_client_that_commits_its_turns_itself(talk: Talk, host: Host) -> None:
    client = talk(audio={"input": {"turn_detection": None}})
    client.say("First I say this.")
    assert client.flush() == []
    client.send("input_audio_buffer.clear")
    client.until("input_audio_buffer.cleared")
    client.say("Then I say that.")
    client.send("input_audio_buffer.commit")
    client.send("response.create")
    events = client.until("response.done")
    assert without_deltas(events) == SPOKEN_TURN[2:] + SPOKEN_ANSWER
    assert host.script.thinker.last == [("user", "Then I say that.")]


def test_text_in_and_text_out_with_items_of_the_clients_own(talk: Talk, host: Host) -> None:
    client = talk(output_modalities=["text"], instructions="Be brief.")
    for id, after, text in (("b", None, "Second."), ("c", "b", "Third."), ("a", "root", "First.")):
        content = [{"type": "input_text", "text": text}]
        item = {"id": id, "type": "message", "role": "user", "content": content}
        client.send("conversation.item.create", item=item, previous_item_id=after)
        added = client.until("conversation.item.added")[-1]
        assert added["item"]["content"] == content
        assert added["previous_item_id"] == {"b": None, "c": "b", "a": None}[id]
    client.send("conversation.item.create", item={"id": "a", "type": "message", "content": []})
    assert client.until("error")[-1]["error"]["code"] == "item_already_exists"
    client.send("conversation.item.delete", item_id="c")
    client.until("conversation.item.deleted")
    client.send("response.create")
    events = client.until("response.done")
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == [
        "Hello there, my friend."
    ]
    assert "response.output_audio.delta" not in types(events)
    assert events[-1]["response"]["output"][0]["content"] == [
        {"type": "output_text", "text": "Hello there, my friend."}
    ]
    assert host.script.thinker.last == [("user", "First."), ("user", "Second.")]
    assert host.script.thinker.asked[-1][0].content == "Be brief."


def test_a_response_outside_the_conversation_has_its_own_input_and_leaves_no_trace(
    talk: Talk, host: Host
) -> None:
    client = talk()
    client.say("Remember me.")
    client.answer()
    given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sum up."}]}]
    client.send(
        "response.create",
        response={
            "conversation": "none",
            "input": given,
            "output_modalities": ["text"],
            "metadata": {"n": "1"},
        },
    )
    events = client.until("response.done")
    assert "conversation.item.added" not in types(events)
    assert events[-1]["response"]["conversation_id"] is None
    assert events[-1]["response"]["metadata"] == {"n": "1"}
    assert host.script.thinker.last == [("user", "Sum up.")]
    client.send("response.create", response={"output_modalities": ["text"]})
    client.answer()
    assert [role for role, _ in host.script.thinker.last] == ["user", "assistant"]


def test_tools_go_to_the_language_model_and_their_results_come_back(talk: Talk, host: Host) -> None:
    host.script.thinker.answers = [
        [
            ToolCallDelta(0, "call_9", "get_time", '{"zo'),
            ToolCallDelta(0, None, None, 'ne": "CET"}'),
            ToolCallDelta(1, "call_10", "get_day", "{}"),
        ],
        ["It is noon."],
    ]
    tool = {"type": "function", "name": "get_time", "parameters": {"type": "object"}}
    client = talk(tools=[tool], tool_choice="required")
    client.say("What is the time?")
    events = client.until("response.done")
    arguments = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [(e["call_id"], e["name"], e["arguments"]) for e in arguments] == [
        ("call_9", "get_time", '{"zone": "CET"}'),
        ("call_10", "get_day", "{}"),
    ]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call"] * 2
    assert host.script.thinker.options[0]["tools"] == (
        {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
    )
    for call_id, output in (("call_9", "12:00"), ("call_10", "Monday")):
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        client.send("conversation.item.create", item=item)
    client.send("response.create")
    assert client.answer()["output"][0]["content"][0]["transcript"] == "It is noon."
    assert [(message.role, message.tool_call_id) for message in host.script.thinker.asked[-1][1:]] == [
        ("user", None),
        ("assistant", None),
        ("tool", "call_9"),
        ("tool", "call_10"),
    ]


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_a_telephone_hears_and_speaks_at_8_khz(talk: Talk, host: Host, kind: str) -> None:
    format = {"type": kind}
    client = talk(audio={"input": {"format": format}, "output": {"format": format}})
    sound = np.frombuffer(client.script.speech.say("Hello from the phone.") + silence(700), "<i2")
    samples = sound.astype(np.float32)[::3] / 32767  # the tones are far below 4 kHz
    encoded = OutputStream(AudioFormat("pcmu" if kind == "audio/pcmu" else "pcma", 8_000), 8_000).add(samples)
    client.send("input_audio_buffer.append", audio=base64.b64encode(encoded).decode())
    events = client.until("response.done")
    assert host.script.thinker.last == [("user", "Hello from the phone.")]
    spoken_s = len(audio_of(events)) / 8_000
    assert 0.3 < spoken_s < 2
    assert events[-1]["response"]["audio"]["output"]["format"] == format


def test_a_recogniser_that_fails_once_is_asked_again_and_after_that_it_is_told(
    talk: Talk, host: Host
) -> None:
    client = talk()
    host.script.recognizer.fail_next = 1
    client.say("Do you hear me?")
    assert client.answer()["status"] == "completed"
    host.script.recognizer.fails = True
    client.say("And now?")
    events = client.until("error")
    host.script.recognizer.fails = False
    assert "conversation.item.input_audio_transcription.failed" in types(events)
    assert "response.created" not in types([*events, *client.quiet()])
    client.say("And again?")
    assert client.answer()["status"] == "completed"


def test_a_language_model_that_fails_is_said_aloud_and_told(talk: Talk, host: Host) -> None:
    host.script.thinker.answers = [[UpstreamError("The model is away; try again.")], ["I am back."]]
    client = talk()
    client.say("What now?")
    events = client.until("response.done")
    assert "error" in types(events)
    assert transcript_of(events) == "Sorry, I cannot think of an answer right now."
    assert len(audio_of(events)) > 10_000
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["status_details"]["error"]["message"] == "The model is away; try again."
    client.say("Better?")
    assert client.answer()["status"] == "completed"


def test_a_voice_that_fails_leaves_the_text(talk: Talk, host: Host, upstream: Upstream) -> None:
    upstream.answer = JSONResponse({"error": {"message": "broken"}}, 500)
    client = talk()
    client.say("What now?")
    events = client.until("response.done")
    upstream.answer = None
    assert "error" in types(events)
    assert transcript_of(events) == "Hello there, my friend."
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["output"][0]["content"][0]["transcript"] == "Hello there, my friend."
    client.say("Better?")
    assert client.answer()["status"] == "completed"
    assert ("assistant", "Hello there, my friend.") in host.script.thinker.last


def test_nothing_of_what_was_speculated_leaves_before_the_turn_is_over(talk: Talk, host: Host) -> None:
    client = talk()
    client.hear(client.script.speech.say("What is the time?") + silence(250))
    eventually(lambda: host.script.thinker.asked)
    assert types([*client.flush(), *client.quiet(0.5)]) == ["input_audio_buffer.speech_started"]
    client.hear(silence(400))
    events = client.until("response.done")
    assert without_deltas(events) == SPOKEN_TURN[1:] + SPOKEN_ANSWER
    assert len(host.script.thinker.asked) == 1  # what was speculated is what is said


def test_after_silence_the_agent_speaks_if_it_is_asked_to(talk: Talk, host: Host) -> None:
    detection = {"type": "server_vad", "idle_timeout_ms": 5000}
    client = talk(audio={"input": {"turn_detection": detection}})
    client.hear(silence(5500))
    events = client.until("response.done")
    assert without_deltas(events)[:4] == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert host.script.thinker.last[-1][0] == "user"


def test_an_answer_that_may_not_be_interrupted_is_not(talk: Talk, host: Host, upstream: Upstream) -> None:
    upstream.events = whole(40)
    detection = {"type": "server_vad", "interrupt_response": False}
    client = talk(audio={"input": {"turn_detection": detection}})
    client.say("Tell me a story.")
    client.until("response.output_audio.delta")
    client.say("Wait, stop talking now.")
    assert client.answer()["status"] == "completed"
    assert client.answer()["status"] == "completed"  # the second question's
    assert host.script.thinker.last[-1] == ("user", "Wait, stop talking now.")


def test_words_are_told_as_they_are_said_by_a_model_that_streams(talk: Talk) -> None:
    client = talk(audio={"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "en"}}})
    for number in range(32):
        client.hear(
            client.script.speech.say("one two three four five six seven eight", 3200)[number * 4800 :][:4800]
        )
        client.flush()
    deltas = [e["delta"] for e in client.events if e["type"].endswith("input_audio_transcription.delta")]
    assert deltas
    assert "one two three four five six seven eight".startswith("".join(deltas).strip())
    client.hear(silence(700))
    client.answer()


def test_audio_that_never_ends_is_bounded(talk: Talk) -> None:
    client = talk(audio={"input": {"turn_detection": None}})
    minute = base64.b64encode(silence(10_000)).decode()
    for _ in range(33):
        client.send("input_audio_buffer.append", audio=minute)
    assert client.until("error")[-1]["error"]["code"] == "input_audio_buffer_full"
    client.send("input_audio_buffer.clear")
    client.until("input_audio_buffer.cleared")


def test_something_is_sent_before_a_proxy_loses_patience(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.KEEP_ALIVE_S", 0.2)
    client = talk()
    assert client.until("rate_limits.updated")[-1]["rate_limits"] == []


def test_the_protocol_is_also_where_clients_look_for_it(talk: Talk, host: Host) -> None:
    client = talk("/realtime")
    client.say("Hello?")
    assert client.answer()["status"] == "completed"
    url = host.url.replace("http", "ws", 1) + "/ws"
    with connect(url, proxy=None, subprotocols=[Subprotocol("realtime")]) as socket:
        assert socket.subprotocol == "realtime"
        assert json.loads(socket.recv(5))["type"] == "session.created"
    with connect(url, proxy=None) as socket:  # tier 2's own
        socket.send("Hello.")
        assert isinstance(socket.recv(15), bytes)


def test_metrics_count_turns_interruptions_and_stages(talk: Talk, host: Host) -> None:
    before = host.metric('orpheus_agent_turns_total{outcome="said"}')
    stages = host.metric("orpheus_agent_stage_seconds_count")
    client = talk()
    client.say("Count me.")
    client.answer()
    assert host.metric('orpheus_agent_turns_total{outcome="said"}') == before + 1
    assert host.metric("orpheus_agent_stage_seconds_count") > stages
    assert host.metric("orpheus_agent_conversations ") == 1


# What OpenAI's servers send besides: WebRTC's, MCP's, SIP's, the beta's and diarization's.
NEVER_SENT = re.compile(
    r"output_audio_buffer\.|mcp_list_tools\.|response\.mcp_|.*dtmf|conversation\.created|conversation\.item\.created|"
    r".*transcription\.segment"
)


@pytest.mark.slow
def test_every_kind_of_event_is_sent_in_one_long_conversation_and_openais_models_take_all_of_them(
    talk: Talk, host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.KEEP_ALIVE_S", 0.3)
    upstream.events = whole(30)
    thinker = host.script.thinker
    tool = {"type": "function", "name": "get_time", "parameters": {"type": "object"}}
    client = talk(tools=[tool], audio={"input": {"transcription": {"model": "gpt-4o-transcribe"}}})

    thinker.answers = [["One two three four five six seven. ", "Eight nine ten."], ["All right."]]
    sound = client.script.speech.say("Tell me a long story about the sea.", 2400)
    for start in range(0, len(sound), 9600):  # its words are told while it is said
        client.hear(sound[start : start + 9600])
        client.flush()
    client.hear(silence(700))
    client.until("response.output_audio.delta")
    client.say("No wait, stop that.")
    cut = client.until("response.done")[-1]["response"]["output"][0]
    client.answer()
    client.send("conversation.item.truncate", item_id=cut["id"], content_index=0, audio_end_ms=100)
    client.send("conversation.item.retrieve", item_id=cut["id"])
    client.until("conversation.item.retrieved")

    thinker.answers = [
        ["Let me look. ", ToolCallDelta(0, "call_1", "get_time", "{}")],
        ["It is noon.", 3.0, "."],
    ]
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "The time?"}]}
    client.send("conversation.item.create", item={**item, "id": "asked"})
    client.send("response.create", response={"metadata": {"a": "b"}})
    client.answer()
    output = {"type": "function_call_output", "call_id": "call_1", "output": "12:00"}
    client.send("conversation.item.create", item=output)
    client.send("response.create", response={"output_modalities": ["text"]})
    client.until("response.output_text.delta")
    client.send("response.create")  # an error: one is active
    client.send("response.cancel")
    client.answer()
    client.send("conversation.item.delete", item_id="asked")
    client.until("conversation.item.deleted")

    thinker.answers = [[UpstreamError("The model is away.")], ["I am back."]]
    client.send(
        "response.create", response={"conversation": "none", "input": [item], "output_modalities": ["text"]}
    )
    client.answer()
    client.send("output_audio_buffer.clear")  # what is still to be heard of "Let me look."
    host.script.recognizer.fails = True
    client.say("And now?")
    client.until("conversation.item.input_audio_transcription.failed")
    host.script.recognizer.fails = False

    for kind in ("audio/pcmu", "audio/pcma"):
        thinker.answers = [["On the telephone."]]
        format = {"type": kind}
        client.update(
            audio={"input": {"format": format, "turn_detection": None}, "output": {"format": format}}
        )
        client.hear(b"\xd5" * 9600, chunk_ms=50)
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        client.send("input_audio_buffer.commit")  # an error: there is nothing
        client.hear(b"\x20\xa0" * 4800, chunk_ms=50)
        client.send("input_audio_buffer.commit")
        client.until("input_audio_buffer.committed")
        client.send("response.create")
        client.answer()
    detection = {"type": "server_vad", "idle_timeout_ms": 1000}
    client.update(
        audio={"input": {"format": {"type": "audio/pcm", "rate": 24_000}, "turn_detection": detection}},
    )
    for _ in range(40):
        client.hear(silence(500))
        if "input_audio_buffer.timeout_triggered" in types(client.flush()):
            break
        time.sleep(0.2)
    while types(client.events).count("response.done") < types(client.events).count("response.created"):
        client.next()
    client.until("rate_limits.updated")
    client.send("nonsense")
    client.until("error")

    union = get_args(get_args(RealtimeServerEvent)[0])
    known = {get_args(event.model_fields["type"].annotation)[0] for event in union}
    assert {type for type in known if not NEVER_SENT.match(type)} <= set(types(client.events))
    assert set(types(client.events)) <= known  # as `client` has seen to, event by event
    codes = [event["error"]["code"] for event in client.events if event["type"] == "error"]
    assert "conversation_already_has_active_response" in codes
    assert "input_audio_buffer_commit_empty" in codes
    created = [event["response"]["id"] for event in client.events if event["type"] == "response.created"]
    ended = [event["response"]["id"] for event in client.events if event["type"] == "response.done"]
    assert sorted(created) == sorted(ended)
    assert len({event["event_id"] for event in client.events}) == len(client.events)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "response.unheard_of"},
        {"item_id": None},
        {"response": "none"},
        {"session": {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "odd"}}}}},
    ],
    ids=str,
)
def test_the_models_that_events_are_held_against_do_not_take_everything(change: dict[str, Any]) -> None:
    session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    valid: dict[str, Any] = {
        "response.unheard_of": {"type": "session.created", "session": session},
        "item_id": {"type": "input_audio_buffer.speech_started", "audio_start_ms": 0, "item_id": "a"},
        "response": {"type": "response.done", "response": {}},
        "session": {"type": "session.updated", "session": session},
    }[change.get("type") or next(iter(change))]
    STRICT.validate_python({**valid, "event_id": "e"})
    with pytest.raises(ValidationError):
        STRICT.validate_python({**valid, "event_id": "e", **change})
