"""Silero's network on real speech, noise and silence."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from orpheus.agent import vad
from orpheus.agent.turns import SpeechStarted, SpeechStopped, TurnConfig
from orpheus.agent.vad import FRAME_SAMPLES, VoiceActivity
from orpheus.errors import SetupError
from tests.support.heard import QUESTIONS, heard, turns_in
from tests.support.live import Pair
from tests.support.sounds import noises, silence


@pytest.fixture(scope="module")
def activity() -> Callable[[], VoiceActivity]:
    return VoiceActivity.load()


@pytest.mark.parametrize("kind", sorted(noises(0.1)))
def test_noise_is_no_turn(kind: str, activity: Callable[[], VoiceActivity]) -> None:
    assert turns_in(noises(20)[kind], activity()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_minutes_of_noises_make_no_turn(seed: int, activity: Callable[[], VoiceActivity]) -> None:
    found = {
        kind: turns_in(sound, activity(), TurnConfig("semantic_vad"))
        for kind, sound in noises(50, seed).items()  # twelve of them
    }
    assert not any(found.values()), found


def test_each_question_is_one_turn_that_holds_all_of_it(
    pair: Pair, activity: Callable[[], VoiceActivity]
) -> None:
    for seed, question in enumerate(QUESTIONS[:4]):
        speech = heard(pair.url, question, seed)
        loud = np.flatnonzero(np.abs(speech) > 0.05) / 16 + 1_000
        found = turns_in(np.concatenate([silence(1), speech, silence(1)]), activity())
        (started,) = [event for event in found if isinstance(event, SpeechStarted)]
        (stopped,) = [event for event in found if isinstance(event, SpeechStopped)]
        assert started.start_ms < loud[0]
        assert loud[-1] < stopped.end_ms < loud[-1] + 900


def test_speech_over_noise_is_heard(pair: Pair, activity: Callable[[], VoiceActivity]) -> None:
    speech = np.concatenate([silence(1), heard(pair.url, QUESTIONS[0], 1), silence(1)])
    noise = 0.2 * noises(len(speech) / 16_000 + 0.1)["pink noise"][: len(speech)]
    found = turns_in(speech + noise, activity())
    assert [
        type(event) for event in found if not type(event).__name__.startswith(("SpeechP", "SpeechR"))
    ] == [
        SpeechStarted,
        SpeechStopped,
    ]


def test_conversations_over_one_network_do_not_hear_each_other(
    activity: Callable[[], VoiceActivity],
) -> None:
    one, other = noises(2)["loud white noise"], noises(2)["gusts"]
    frames = range(0, len(one) - FRAME_SAMPLES, FRAME_SAMPLES)
    alone = activity()
    expected = [alone.probability(one[at : at + FRAME_SAMPLES]) for at in frames]
    first, second = activity(), activity()
    got = []
    for at in frames:
        got.append(first.probability(one[at : at + FRAME_SAMPLES]))
        second.probability(other[at : at + FRAME_SAMPLES])
    assert got == expected
    first.reset()
    assert first.probability(one[:FRAME_SAMPLES]) == expected[0]


def test_a_frame_of_another_length_is_a_mistake(activity: Callable[[], VoiceActivity]) -> None:
    with pytest.raises(ValueError, match="512"):
        activity().probability(silence(0.02))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SetupError, match=r"onnxruntime is not installed: .*\[agent\]"):
        VoiceActivity.load()
    monkeypatch.undo()
    monkeypatch.setattr(vad.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"faster_whisper is not installed: .*\[agent\]"):
        VoiceActivity.load()
