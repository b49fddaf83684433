"""The benchmark of the agent: what it makes of what it heard; and, slowly, one question that is really asked."""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import pytest

from benchmarks.agent import show, trials
from benchmarks.agent.__main__ import talking
from benchmarks.agent.caller import calling
from benchmarks.agent.recordings import RATE, Sound, noises, plain, spoken, trimmed, words_wrong
from benchmarks.agent.trials import Crowd, Interruption, Try, Turn

NOTHING = Sound("", "nobody", np.zeros(0, np.int16))


def turn(wait_s: float | None, *, underruns: int = 0) -> Turn:
    return Turn(Sound("Why?", "tara", np.zeros(0, np.int16)), ["Why?"], wait_s, {"vad_ms": 500.0}, underruns)


@pytest.mark.parametrize(
    ("written", "as_it_sounds"),
    [
        ("Go forward 10 meters.", "go forward ten meters"),
        ("And Mr. Dashwood, ill-disposed", "and mister dashwood ill disposed"),
        ("What’s your favourite colour?", "what's your favorite color"),
    ],
)
def test_words_are_compared_as_they_sound(written: str, as_it_sounds: str) -> None:
    assert plain(written) == as_it_sounds
    assert words_wrong([written], [as_it_sounds]) == 0


def test_a_word_left_out_and_one_mistaken_are_two_of_four() -> None:
    assert words_wrong(["why is it blue"], ["why is true"]) == 0.5


def test_what_is_said_begins_and_ends_with_its_speech() -> None:
    speech = (8_000 * np.sin(np.arange(RATE) / 10)).astype(np.int16)
    quiet = np.full(RATE, 20, np.int16)
    assert abs(len(trimmed(np.concatenate((quiet, speech, quiet)))) - RATE) <= RATE // 50


def test_noises_have_their_length_and_can_be_heard() -> None:
    for sound in noises(0.5, seed=3):
        assert len(sound.samples) == RATE // 2
        assert np.abs(sound.samples).max() > 1_000


def test_a_crowd_holds_if_all_are_answered_within_twice_the_time_of_one_without_a_hole() -> None:
    alone = Crowd(1, [turn(0.6)])
    assert alone.holds(alone)
    assert Crowd(2, [turn(1.1), turn(1.2)]).holds(alone)
    assert not Crowd(2, [turn(1.3), turn(1.3)]).holds(alone)
    assert not Crowd(2, [turn(0.6), turn(0.6, underruns=1)]).holds(alone)
    assert not Crowd(2, [turn(0.6), turn(None)]).holds(alone)
    assert not Crowd(2, [turn(0.6)], ["refused with 429"]).holds(alone)


def test_sound_that_only_starts_a_turn_is_false_over_an_answer_alone() -> None:
    assert not Try("noise", NOTHING, starts=1).is_false
    assert Try("noise", NOTHING, turns=1, starts=1).is_false
    assert Try("murmur", NOTHING, starts=1).is_false


def test_results_have_the_figures_that_are_promised() -> None:
    found = show.print_turns("server_vad", [turn(0.6), turn(None)])
    found |= show.print_interruptions([Interruption(NOTHING, False, 0.4, 0.1), Interruption(NOTHING, True)])
    found |= show.print_tries([Try("murmur", NOTHING, starts=1), Try("echo", None)])
    assert found["end_to_audio_ms_p50_server_vad"] == pytest.approx(600)
    assert found["unanswered_server_vad"] == 1
    assert found["barge_in_ms_p95"] == pytest.approx(400)
    assert found["barge_in_from_detection_ms_p95"] == pytest.approx(300)
    assert found["interruptions_missed"] == 1
    assert (found["false_turns"], found["tries"]) == (1, 2)
    json.dumps(found)


@pytest.mark.slow
def test_a_question_that_is_really_asked_is_answered_and_timed_and_the_answer_can_be_interrupted() -> None:
    async def talk(url: str, question: Sound, stop: Sound) -> tuple[Turn, list[Interruption]]:
        async with calling(url, trials.SERVER_VAD) as caller:
            await caller.settled()
            asked = await trials.ask(caller, question)
        return asked, await trials.interruptions(url, [stop], lambda what: None)

    with talking() as server:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            question, stop = (
                spoken(client, text, "tara", 0) for text in ("Why is the sky blue?", "Stop talking, please.")
            )
        asked, interrupted = asyncio.run(talk(server.url, question, stop))
    assert asked.heard == ["Why is the sky blue?"]
    assert asked.wait_s is not None
    assert asked.wait_s > 0.4
    assert asked.stages["vad_ms"] == pytest.approx(500, abs=100)
    assert interrupted[0].silent_s is not None
    assert interrupted[0].silent_s > 0.2
    assert interrupted[0].late_bytes == 0
