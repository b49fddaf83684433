"""What is a turn and what is not, over a scripted agent: short answers, hums, microphones that fall silent, changes meanwhile."""

from __future__ import annotations

import base64
import gc
import threading
import time
from typing import Any

import numpy as np
import pytest

from orpheus.agent import conversation
from orpheus.agent.audio import SAMPLE_RATE
from orpheus.agent.conversation import Conversation
from tests.agent.conftest import Host
from tests.support.agent import (
    OUT_RATE,
    RealtimeClient,
    Talk,
    audio_of,
    pcm16,
    silence,
    types,
)
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

LONG = ["One two three four five six seven. ", "Eight nine ten eleven twelve thirteen. ", "The end of it."]


def in_mid_answer(talk: Talk, host: Host, upstream: Upstream) -> RealtimeClient:
    """A client that has begun to hear a long answer."""
    upstream.events = whole(24)
    host.script.thinker.answers = [LONG]
    client = talk()
    client.send("response.create")
    client.until("response.output_audio.delta")
    return client


def answered(client: RealtimeClient, upstream: Upstream, answer: str, frames: int = 12) -> float:
    """The agent has said all of `answer`; how many seconds of it are still to be heard."""
    upstream.events = whole(frames)
    client.script.thinker.answers = [[answer], ["I see."]]
    client.say("Go on.")
    client.until("response.output_audio.delta")
    began_s = time.monotonic()
    before = len(client.events)
    client.until("response.done")
    spoken_s = len(audio_of(client.events[before - 1 :])) / (2 * OUT_RATE)
    return spoken_s - (time.monotonic() - began_s)


@pytest.mark.parametrize("word", ["Right.", "Mm-hmm."])
def test_a_yes_at_the_end_of_the_agents_question_is_a_turn(
    talk: Talk, host: Host, upstream: Upstream, word: str
) -> None:
    client = talk()
    left_s = answered(client, upstream, "Do you want some tea?")
    time.sleep(max(0.0, left_s - 0.5))
    sound = client.script.speech.say(word, 448) + silence(700)
    for start in range(0, len(sound), 4800):  # as fast as it is spoken
        client.hear(sound[start : start + 4800])
        time.sleep(0.1)
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last == [
        ("user", "Go on."),
        ("assistant", "Do you want some tea?"),
        ("user", word),
    ]


def test_an_early_yes_that_is_decided_on_at_once_stays_one(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    client = talk()
    left_s = answered(client, upstream, "Do you want some tea?")
    time.sleep(max(0.0, left_s - 0.5))
    client.say("Mm-hmm.", ms=448)  # faster than it is spoken: the question is cut off
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last[-1] == ("user", "Mm-hmm.")


@pytest.mark.parametrize(
    ("answer", "word"),
    [("I like some tea.", "Mm-hmm."), ("Tea? I like it.", "Sure.")],
)
def test_a_yes_while_the_agent_tells_something_is_none(
    talk: Talk, upstream: Upstream, answer: str, word: str
) -> None:
    client = talk()
    left_s = answered(client, upstream, answer)
    time.sleep(max(0.0, left_s - 0.7))
    client.say(word, ms=448)
    events = [*client.flush(), *client.quiet(0.9)]
    assert "input_audio_buffer.committed" not in types(events)
    assert "response.created" not in types(events)


def test_a_yes_long_before_a_question_ends_is_none(
    talk: Talk, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "EARLY_S", 0.3)
    client = talk()
    left_s = answered(client, upstream, "Do you, all things considered, want some tea?", frames=34)
    assert left_s > conversation.EARLY_S + 0.4, "it was too slow to try"
    client.say("Yes.", ms=448)
    assert "input_audio_buffer.committed" not in types([*client.flush(), *client.quiet(1)])


def test_a_yes_after_the_end_is_a_turn_whatever_was_said(talk: Talk, host: Host, upstream: Upstream) -> None:
    client = talk()
    time.sleep(max(0.0, answered(client, upstream, "I like some tea.")) + 0.2)
    client.say("Yes.", ms=448)
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last[-1] == ("user", "Yes.")


def hum(ms: int, hz: float = 140) -> bytes:
    """Behind closed lips: nothing of it above 600 Hz."""
    time_s = np.arange(OUT_RATE * ms // 1000) / OUT_RATE
    buzz = np.sin(2 * np.pi * hz * time_s) + 0.5 * np.sin(4 * np.pi * hz * time_s)
    return pcm16(0.2 * buzz * np.minimum(1, 20 * time_s))


@pytest.fixture
def misheard(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recogniser makes a word of whatever it hears."""
    monkeypatch.setattr(host.script.recognizer.speech, "text", lambda samples: "My name is")


@pytest.mark.usefixtures("misheard")
@pytest.mark.parametrize("ms", [448, 1600])
def test_a_hum_that_is_taken_for_words_neither_interrupts_nor_makes_a_turn(
    talk: Talk, host: Host, upstream: Upstream, ms: int
) -> None:
    client = in_mid_answer(talk, host, upstream)
    client.hear(hum(ms) + silence(700))
    events = client.until("response.done")
    assert events[-1]["response"]["status"] == "completed"
    client.hear(hum(ms) + silence(700))  # while its end is heard
    assert "input_audio_buffer.committed" not in types([*events, *client.flush(), *client.quiet(0.5)])


@pytest.mark.usefixtures("misheard")
def test_a_hum_that_nobody_asked_for_is_no_turn_and_told_to_be_over(talk: Talk, host: Host) -> None:
    client = talk()
    client.hear(hum(448) + silence(700))
    events = client.until("input_audio_buffer.cleared")
    assert types(events) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.cleared",
    ]
    assert host.script.thinker.asked == []


def test_sound_without_words_does_not_interrupt_however_long_it_is(
    talk: Talk, host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = in_mid_answer(talk, host, upstream)
    monkeypatch.setattr(host.script.recognizer.speech, "text", lambda samples: "")
    noise = pcm16(np.random.default_rng(1).normal(0, 0.1, 3 * OUT_RATE))
    for start in range(0, len(noise), 4800):  # as it is recorded, so that each probe has its turn
        client.hear(noise[start : start + 4800])
        time.sleep(0.05)
    client.hear(silence(700))
    events = client.until("response.done")
    assert "input_audio_buffer.speech_started" not in types(events)
    assert events[-1]["response"]["status"] == "completed"


def test_a_cough_that_cannot_be_transcribed_does_not_stop_the_answer_but_is_told(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    client = in_mid_answer(talk, host, upstream)
    host.script.recognizer.fails = True
    client.hear(client.script.speech.say("Ahem.", 288) + silence(700))
    events = client.until("response.done")
    assert "error" in types(events)
    assert "input_audio_buffer.speech_started" not in types(events)
    assert events[-1]["response"]["status"] == "completed"


def test_a_microphone_that_is_taken_away_in_mid_word_ends_the_turn(
    talk: Talk, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MISSING_S", 0.5)
    client = talk()
    client.hear(client.script.speech.say("What is the time?"))
    events = client.until("response.done")
    assert types(events).count("input_audio_buffer.speech_stopped") == 1
    assert host.script.thinker.last == [("user", "What is the time?")]
    client.say("And now?")
    assert client.answer()["status"] == "completed"


def test_a_microphone_that_is_taken_away_while_it_might_interrupt_does_not_hold_the_answer_back(
    talk: Talk, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MISSING_S", 0.5)
    host.script.thinker.answers = [[0.4, "Hello there."]]
    client = talk()
    client.send("response.create")
    client.until("response.created")
    client.hear(client.script.speech.say("Mm", 160))
    assert client.answer()["status"] == "completed"


def test_an_answer_that_was_begun_before_the_client_changed_an_item_is_begun_again(
    talk: Talk, host: Host
) -> None:
    client = talk()
    client.hear(client.script.speech.say("What is my name?") + silence(250))
    eventually(lambda: host.script.thinker.asked)
    content = [{"type": "input_text", "text": "The user's name is Ann."}]
    client.send("conversation.item.create", item={"type": "message", "role": "system", "content": content})
    client.until("conversation.item.done")
    client.hear(silence(500))
    assert client.answer()["status"] == "completed"
    assert client.script.thinker.asked[-1][-2:][0].content == "The user's name is Ann."
    assert [message.content for message in host.script.thinker.asked[-1]][-1] == "What is my name?"


def test_what_a_client_commits_is_heard_even_if_it_sounds_like_the_agent(
    talk: Talk, host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = in_mid_answer(talk, host, upstream)
    monkeypatch.setattr(conversation, "likeness", lambda heard, played: 1.0)
    client.hear(client.script.speech.say("Do you hear me?", 960))
    client.flush()
    client.send("input_audio_buffer.commit")
    done = client.until("conversation.item.input_audio_transcription.completed")[-1]
    assert done["transcript"] == "Do you hear me?"


def test_a_likeness_is_found_out_in_a_thread_and_nothing_is_decided_meanwhile(
    talk: Talk, host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.events = whole(24)
    host.script.thinker.answers = [LONG]
    threads: list[str] = []
    compared = threading.Event()

    def slow(heard: Any, played: Any) -> float:
        threads.append(threading.current_thread().name)
        assert len(heard) <= 10_240
        compared.wait(5)
        return 0.1

    monkeypatch.setattr(conversation, "likeness", slow)
    client = talk()
    client.send("response.create")
    client.until("response.output_audio.delta")
    client.hear(client.script.speech.say("Stop it now, please.", 1280))
    assert "input_audio_buffer.speech_started" not in types([*client.flush(), *client.quiet(0.3)])
    compared.set()
    client.until("input_audio_buffer.speech_started")
    assert client.answer()["status"] == "cancelled"
    assert all(name.startswith("asyncio") for name in threads)


def test_a_text_answer_that_is_cancelled_keeps_what_was_written(talk: Talk, host: Host) -> None:
    host.script.thinker.answers = [["It is ", "noon ", 5.0, "in Rome."], ["Yes."]]
    client = talk(output_modalities=["text"])
    client.send("response.create")
    client.until("response.output_text.delta", delta="noon ")
    client.send("response.cancel")
    response = client.answer()
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "It is noon "}]
    client.send("response.create")
    client.answer()
    assert host.script.thinker.last == [("assistant", "It is noon ")]


def test_text_beside_the_audio_of_an_item_stays_when_the_audio_is_transcribed(talk: Talk, host: Host) -> None:
    client = talk()
    sound = base64.b64encode(client.script.speech.say("What is this?")).decode()
    content = [{"type": "input_text", "text": "A picture of a cat."}, {"type": "input_audio", "audio": sound}]
    client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    client.until("conversation.item.input_audio_transcription.completed")
    client.send("response.create", response={"output_modalities": ["text"]})
    client.answer()
    assert host.script.thinker.last == [("user", "A picture of a cat. What is this?")]


def test_every_item_is_told_with_the_one_before_it(talk: Talk) -> None:
    client = talk()
    client.say("Hello.")
    events = client.until("response.done")
    previous = {
        (event["type"], event["item"]["id"]): event["previous_item_id"]
        for event in events
        if event["type"] in ("conversation.item.added", "conversation.item.done")
    }
    question, answer = {id: None for _, id in previous}
    assert previous == {
        (f"conversation.item.{what}", id): before
        for what in ("added", "done")
        for id, before in ((question, None), (answer, question))
    }


def test_a_cough_while_the_question_is_transcribed_does_not_lose_its_answer(talk: Talk, host: Host) -> None:
    client = talk()
    host.script.recognizer.pause_s = 0.3
    say = client.script.speech.say
    client.hear(say("What is the time?") + silence(600) + say("", 256) + silence(700))
    events = client.until("response.done")
    assert types(events).count("input_audio_buffer.committed") == 1
    assert types(events).count("input_audio_buffer.cleared") == 1
    assert host.script.thinker.last == [("user", "What is the time?")]


def test_two_questions_at_once_are_answered_together(talk: Talk, host: Host) -> None:
    client = talk()
    host.script.recognizer.pause_s = 0.3
    say = client.script.speech.say
    client.hear(say("What is the time?") + silence(600) + say("And the day?") + silence(700))
    events = [*client.until("response.done"), *client.quiet()]
    assert types(events).count("response.created") == 1
    assert host.script.thinker.last == [("user", "What is the time?"), ("user", "And the day?")]


def test_turns_that_are_sent_faster_than_they_are_transcribed_wait_and_none_is_lost(
    talk: Talk, host: Host
) -> None:
    client = talk(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
    host.script.recognizer.pause_s = 0.1
    sound = client.script.speech.say("One.", 160) + silence(600)
    client.hear(sound * 40, chunk_ms=1000)
    running = 0
    committed = 0
    while committed < 40:
        committed += client.next()["type"] == "input_audio_buffer.committed"
        running = max(running, host.script.recognizer.running)
    assert 1 < running <= conversation.MAX_UNHEARD + 2


def test_speech_that_never_ends_is_cut_into_turns_and_no_more_than_one_is_kept(
    talk: Talk, host: Host
) -> None:
    client = talk(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
    (held,) = [one for one in gc.get_objects() if type(one) is Conversation and not one._failure.done()]
    sound = client.script.speech.say("La la la.", 10_000)
    for _ in range(26):
        client.hear(sound, chunk_ms=10_000)
        client.flush()
        assert held._buffer.end - held._buffer.start < 125 * SAMPLE_RATE
    assert types(client.events).count("input_audio_buffer.committed") == 2
