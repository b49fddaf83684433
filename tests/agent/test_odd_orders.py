"""Events of a client at odd moments: settings, cuts, deletions and recordings in the middle of a turn or an answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from orpheus.agent.think import Finished, ToolCallDelta
from orpheus.errors import NotReady
from orpheus.server.service import SpeechService
from tests.agent.conftest import Host
from tests.support.agent import RealtimeClient, Talk, audio_of, silence, transcript_of, types
from tests.support.upstream import Upstream, whole

SECONDS = ["One two three four five six seven eight nine ten."]  # with `whole(40)`, 3.4 s
MORE = [*SECONDS, " Eleven twelve thirteen fourteen.", " The end of it."]


def speaking(
    talk: Talk, host: Host, upstream: Upstream, then: str = "All right.", answer: list[str] = SECONDS
) -> tuple[RealtimeClient, dict[str, Any]]:
    """The agent is heard, nearly all that a client is sent ahead is on its way; the answer's item."""
    upstream.events = whole(40)
    host.script.thinker.answers = [answer, [then]]
    client = talk()
    client.send("response.create")
    item = client.until("conversation.item.added")[-1]["item"]
    client.until("response.output_audio.delta")
    return client, item


def turns(**changes: Any) -> dict[str, Any]:
    return {"input": {"turn_detection": {"type": "server_vad", **changes}}}


def test_a_turn_that_ends_after_the_client_has_asked_for_no_more_answers_is_not_answered(
    talk: Talk, host: Host
) -> None:
    client = talk()
    host.script.recognizer.pause_s = 0.5
    client.say("Do not answer this.")
    client.until("input_audio_buffer.speech_stopped")
    client.update(audio=turns(create_response=False))  # and no more audio
    client.until("conversation.item.input_audio_transcription.completed")
    assert "response.created" not in types([*client.flush(), *client.quiet()])


def test_a_turn_whose_answer_waits_for_the_next_is_not_answered_after_that_either(
    talk: Talk, host: Host
) -> None:
    client = talk()
    host.script.recognizer.pause_s = 0.3
    client.say("Do not answer this.")
    client.hear(client.script.speech.say("Nor this.", 640))
    client.until("conversation.item.input_audio_transcription.completed")
    client.update(audio=turns(create_response=False))
    client.hear(silence(700))
    client.until("conversation.item.input_audio_transcription.completed")
    assert "response.created" not in types([*client.flush(), *client.quiet()])


def test_without_turn_detection_from_mid_word_on_the_client_ends_the_turn_and_its_request_is_kept(
    talk: Talk, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.agent.conversation.MISSING_S", 0.4)
    client = talk()
    client.hear(client.script.speech.say("What is the time?"))
    client.until("input_audio_buffer.speech_started")
    client.send("response.create")  # waits for the end of the turn
    client.update(audio={"input": {"turn_detection": None}})
    assert client.answer()["status"] == "completed"
    assert "input_audio_buffer.committed" not in types([*client.events, *client.quiet(0.8)])
    client.send("input_audio_buffer.commit")
    client.send("response.create")
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last[-1] == ("user", "What is the time?")


def test_what_the_client_has_heard_stays_so_when_the_human_speaks_on(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    client, item = speaking(talk, host, upstream)
    client.until("response.done")
    time.sleep(0.3)
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=600)
    client.until("conversation.item.truncated")
    client.send("conversation.item.retrieve", item_id=item["id"])
    heard = client.until("conversation.item.retrieved")[-1]["item"]["content"][0]["transcript"]
    assert 0 < len(heard) < 12
    client.say("Yes.", ms=448)  # nobody speaks any more, so it is no murmur of a listener
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last == [("assistant", heard), ("user", "Yes.")]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["response.cancel", "conversation.item.truncate"])
def test_a_cut_and_a_cancellation_in_any_order_leave_what_the_client_has_heard(
    talk: Talk, host: Host, upstream: Upstream, first: str
) -> None:
    client, item = speaking(talk, host, upstream, answer=MORE)
    time.sleep(0.4)
    events: dict[str, dict[str, Any]] = {
        "response.cancel": {},
        "conversation.item.truncate": {"item_id": item["id"], "content_index": 0, "audio_end_ms": 600},
    }
    for type in sorted(events, key=lambda type: type != first):
        client.send(type, **events[type])
        time.sleep(0.5)
    client.say("No wait, stop that.")
    while client.answer()["status"] != "completed":
        pass
    (heard,) = [text for role, text in host.script.thinker.last if role == "assistant"]
    assert 0 < len(heard) < 12


def test_after_a_cut_the_next_answer_is_heard_at_once_and_cut_where_it_was(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    client, item = speaking(talk, host, upstream, "Alpha beta gamma delta epsilon zeta.")
    client.until("response.done")
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=300)
    client.send("response.create")
    client.until("response.done")
    time.sleep(1.0)  # of the second answer
    client.say("No wait, stop that.")
    client.answer()
    second = [text for role, text in host.script.thinker.last if role == "assistant"][1]
    assert second.startswith("Alpha")
    assert "zeta" not in second


@pytest.mark.slow
def test_a_late_cut_of_an_answer_that_was_heard_does_not_end_the_one_that_is(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(8)
    host.script.thinker.answers = [["One two three."], SECONDS]
    client = talk()
    client.send("response.create")
    first = client.answer()["output"][0]
    upstream.events = whole(40)
    client.send("response.create")
    client.until("response.output_audio.delta")
    time.sleep(0.8)  # the first was heard by now, and the second begun
    client.send("conversation.item.truncate", item_id=first["id"], content_index=0, audio_end_ms=200)
    client.until("conversation.item.truncated")
    client.say("Mm-hmm.", ms=448)
    assert "input_audio_buffer.committed" not in types([*client.flush(), *client.quiet()])


def test_an_answer_that_is_deleted_while_it_is_spoken_does_not_come_back(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    client, item = speaking(talk, host, upstream)
    client.send("conversation.item.delete", item_id=item["id"])
    events = client.until("response.done")
    assert "conversation.item.deleted" in types(events)
    assert "conversation.item.done" not in types(events)
    assert events[-1]["response"]["status"] == "completed"
    client.say("No wait, stop that.")
    client.answer()
    assert host.script.thinker.last == [("user", "No wait, stop that.")]


def test_an_answer_that_waits_for_the_end_of_a_turn_can_be_cancelled(talk: Talk, host: Host) -> None:
    client = talk(audio=turns(create_response=False))
    client.hear(client.script.speech.say("I was about to say"))
    client.until("input_audio_buffer.speech_started")
    client.send("response.create", response={"metadata": {"a": "b"}})
    client.send("response.cancel")
    done = client.answer()
    assert done["status"] == "cancelled"
    assert done["metadata"] == {"a": "b"}
    client.hear(silence(700))
    client.until("conversation.item.input_audio_transcription.completed")
    assert "response.created" not in types([*client.flush(), *client.quiet()])
    assert host.script.thinker.asked == []
    client.send("response.cancel")
    assert client.until("error")[-1]["error"]["code"] == "response_cancel_not_active"


@pytest.mark.parametrize("end", ["commit", "clear"])
def test_half_a_sample_at_the_end_of_a_recording_does_not_spoil_the_next(
    talk: Talk, host: Host, end: str
) -> None:
    client = talk(audio={"input": {"turn_detection": None}})
    client.hear(client.script.speech.say("First.") + b"\x7f", chunk_ms=2000)
    client.send(f"input_audio_buffer.{end}")
    client.hear(client.script.speech.say("Then this."), chunk_ms=2000)
    client.send("input_audio_buffer.commit")
    client.send("response.create")
    client.answer()
    assert host.script.thinker.last[-1] == ("user", "Then this.")


def test_an_answer_is_told_in_the_format_it_was_begun_in(talk: Talk, host: Host, upstream: Upstream) -> None:
    client, _ = speaking(talk, host, upstream)
    format = {"type": "audio/pcmu"}
    client.update(audio={"output": {"format": format, "voice": "leo"}})
    client.until("response.done")
    first = client.events[-1]["response"]
    assert first["audio"]["output"] == {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "tara"}
    assert len(audio_of(client.events)) > 2 * 24_000 * 3
    client.send("response.create")
    assert client.answer()["audio"]["output"] == {"format": format, "voice": "leo"}


def test_settings_and_requests_are_taken_before_it_is_known_which_voices_there_are(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: SpeechService) -> Any:
        raise NotReady("The voice is loading: try again shortly.")

    client = talk()
    with monkeypatch.context() as patched:
        patched.setattr(SpeechService, "voices", property(unknown))
        assert client.update(audio={"output": {"voice": "leo"}})["audio"]["output"]["voice"] == "leo"
        client.send("response.create", response={"output_modalities": ["text"]})
        assert client.answer()["status"] == "completed"


def test_an_answer_whose_voice_could_not_be_loaded_is_thought_and_told(
    talk: Talk, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failed(_: SpeechService) -> None:
        raise NotReady("There is no voice.")

    def refused(*_: Any, **__: Any) -> Any:
        raise NotReady("The voice could not be loaded: there is none.")

    before = host.metric('orpheus_agent_failures_total{stage="tts"}')
    client = talk()
    with monkeypatch.context() as patched:
        patched.setattr(SpeechService, "loaded", failed)
        patched.setattr(SpeechService, "params", refused)
        client.send("response.create")
        events = client.until("response.done")
    assert transcript_of(events) == "Hello there, my friend."
    assert types(events).count("error") == 1
    assert events[-1]["response"]["status"] == "failed"
    assert host.metric('orpheus_agent_failures_total{stage="tts"}') == before + 1


@pytest.mark.parametrize(
    "session",
    [
        {"tracing": "deep"},
        {"tools": [{"type": "function", "name": "f", "parameters": {"properties": "deep"}}]},
        {"prompt": "deep"},
    ],
    ids=str,
)
def test_a_session_that_is_nested_too_deeply_is_told_and_the_conversation_goes_on(
    talk: Talk, session: dict[str, Any]
) -> None:
    client = talk()
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    text = str(session).replace("'", '"').replace('"deep"', str(deep).replace("'", '"'))
    for event in ("session.update", "response.create"):
        name = event.partition(".")[0]
        client.socket.send(f'{{"type": "{event}", "event_id": "deep", "{name}": {text}}}')
    assert client.until("error")[-1]["error"]["event_id"] == "deep"
    client.say("Still there?")
    while client.answer()["status"] != "completed":
        pass


def test_a_call_that_the_token_limit_cut_off_is_told_incomplete_and_never_sent_to_the_language_model_again(
    talk: Talk, host: Host
) -> None:
    half = [ToolCallDelta(0, "call_1", "get_time", '{"zone": "C'), Finished("length", 9, 9)]
    host.script.thinker.answers = [half, ["I could not find out."]]
    client = talk()
    client.send("response.create")
    (item,) = client.answer()["output"]
    assert item["status"] == "incomplete"
    output = {"type": "function_call_output", "call_id": "call_1", "output": "no JSON"}
    client.send("conversation.item.create", item=output)
    client.send("response.create")
    assert client.answer()["status"] == "completed"
    assert all(not message.tool_calls for message in host.script.thinker.asked[-1])


def test_words_that_cannot_be_told_as_they_are_said_end_nothing(talk: Talk, host: Host) -> None:
    class Broken(Exception):
        """Of a library."""

    client = talk(audio={"input": {"transcription": {"model": "gpt-4o-transcribe", "prompt": "Kirchberg"}}})
    recognizer = host.script.recognizer
    prompts: list[str | None] = []
    transcribe = recognizer.transcribe

    async def sometimes(samples: Any, **options: Any) -> Any:
        prompts.append(options.get("prompt"))
        if len(prompts) < 3:  # a partial transcript, tried twice
            raise Broken
        return await transcribe(samples, **options)

    recognizer.transcribe = sometimes  # type: ignore[method-assign]
    try:
        sound = client.script.speech.say("one two three four five six seven eight", 1600) + silence(700)
        for start in range(0, len(sound), 4800):
            client.hear(sound[start : start + 4800])
            client.flush()
        assert client.answer()["status"] == "completed"
        assert set(prompts) == {"Kirchberg"}
    finally:
        del recognizer.transcribe  # type: ignore[misc]


def test_clearing_while_a_turn_is_transcribed_loses_only_what_waits(talk: Talk, host: Host) -> None:
    client = talk()
    host.script.recognizer.pause_s = 0.3
    client.say("What is the time?")
    client.hear(client.script.speech.say("And", 320))
    client.until("input_audio_buffer.speech_stopped")
    client.send("input_audio_buffer.clear")
    client.send("input_audio_buffer.clear")
    events = client.until("response.done")
    assert types(events).count("input_audio_buffer.cleared") == 2
    assert host.script.thinker.last == [("user", "What is the time?")]


def test_a_cut_of_the_answer_that_is_heard_leaves_nothing_of_those_behind_it(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    client, item = speaking(talk, host, upstream, "Never heard.")
    client.until("response.done")
    client.send("response.create")
    client.answer()
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=1000)
    client.send("response.create", response={"output_modalities": ["text"]})
    client.answer()
    (heard,) = host.script.thinker.last
    assert heard[1].startswith("One two")
