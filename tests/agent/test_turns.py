"""When a human's turn begins and ends, by probabilities of speech alone; and what interrupts the agent."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus.agent.turns import (
    MAX_TURN_MS,
    PAUSE_MS,
    Eagerness,
    SilenceTimeout,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnConfig,
    TurnDetector,
    TurnEvent,
    is_backchannel,
    is_barge_in,
    is_doubtful,
    is_whole_sentence,
)
from orpheus.agent.vad import FRAME_MS
from tests.support.live import ROOT

LOUD, QUIET = 0.95, 0.02
SEMANTIC = TurnConfig("semantic_vad")


def frames(seconds: float) -> int:
    return round(seconds * 1000 / FRAME_MS)


def events(detector: TurnDetector, *stretches: tuple[float, float]) -> list[TurnEvent]:
    """What happens while these probabilities last so many seconds."""
    return [
        event
        for probability, seconds in stretches
        for _ in range(frames(seconds))
        for event in detector.add(probability)
    ]


def kinds(found: Iterable[TurnEvent]) -> list[str]:
    return [type(event).__name__.removeprefix("Speech") for event in found]


def test_a_turn_keeps_300_ms_before_it_and_ends_after_500_ms_of_quiet() -> None:
    found = events(TurnDetector(TurnConfig()), (QUIET, 0.96), (LOUD, 1.6), (QUIET, 2))
    assert found == [SpeechStarted(660), SpeechPaused(2_560), SpeechStopped(2_560 + 512)]


def test_the_prefix_reaches_neither_before_the_audio_nor_into_the_turn_before() -> None:
    detector = TurnDetector(TurnConfig(prefix_padding_ms=5_000))
    assert events(detector, (LOUD, 0.32))[0] == SpeechStarted(0)
    stopped = events(detector, (QUIET, 0.608))[-1]
    assert isinstance(stopped, SpeechStopped)
    assert events(detector, (LOUD, 0.32))[0] == SpeechStarted(stopped.end_ms)


@pytest.mark.parametrize("loud_frames", [1, 2])
def test_a_click_is_no_turn(loud_frames: int) -> None:
    detector = TurnDetector(TurnConfig())
    for _ in range(100):
        assert not events(detector, (LOUD, loud_frames * FRAME_MS / 1000), (QUIET, 0.096))
    assert not detector.speaking


def test_a_pause_in_mid_thought_is_one_turn_whose_suspicion_is_taken_back() -> None:
    found = events(TurnDetector(TurnConfig()), (LOUD, 1), (QUIET, 0.4), (LOUD, 1), (QUIET, 1))
    assert kinds(found) == ["Started", "Paused", "Resumed", "Paused", "Stopped"]


def test_a_gap_between_words_is_no_pause() -> None:
    found = events(TurnDetector(TurnConfig()), *[(LOUD, 0.3), (QUIET, (PAUSE_MS - FRAME_MS) / 1000)] * 20)
    assert kinds(found) == ["Started"]


def test_a_sound_between_the_thresholds_neither_begins_a_turn_nor_a_quiet() -> None:
    detector = TurnDetector(TurnConfig())
    assert not events(detector, (0.45, 5))
    assert kinds(events(detector, (LOUD, 0.5), (0.45, 5))) == ["Started"]
    assert kinds(events(detector, (QUIET, 0.032), (0.45, 0.6))) == ["Paused", "Stopped"]


def test_a_sound_without_end_is_ended() -> None:
    found = events(TurnDetector(TurnConfig()), (LOUD, MAX_TURN_MS / 1000 + 0.5))
    assert kinds(found) == ["Started", "Stopped", "Started"]


@pytest.mark.parametrize(
    ("eagerness", "whole_ms", "other_ms"),
    [("auto", 320, 1216), ("medium", 320, 1216), ("high", 320, 608), ("low", 608, 2016)],
)
def test_words_and_eagerness_decide_how_long_a_quiet_ends_a_turn(
    eagerness: Eagerness, whole_ms: int, other_ms: int
) -> None:
    for text, expected_ms in (("I am done.", whole_ms), ("I want to go to the", other_ms), ("", other_ms)):
        detector = TurnDetector(TurnConfig("semantic_vad", eagerness=eagerness))
        events(detector, (LOUD, 1.024))
        found = events(detector, (QUIET, 0.16))
        detector.set_transcript(text)  # as it comes, after the pause
        found += events(detector, (QUIET, 3))
        assert found[-1] == SpeechStopped(1_024 + expected_ms), text


def test_a_transcript_that_comes_late_ends_the_turn_at_the_next_frame() -> None:
    detector = TurnDetector(SEMANTIC)
    events(detector, (LOUD, 1.024), (QUIET, 0.8))
    detector.set_transcript("What time is it?")
    assert kinds(detector.add(QUIET)) == ["Stopped"]


def test_what_was_a_sentence_is_none_once_the_speaker_goes_on() -> None:
    detector = TurnDetector(SEMANTIC)
    events(detector, (LOUD, 1), (QUIET, 0.2))
    detector.set_transcript("I would like a coffee.")
    assert kinds(events(detector, (LOUD, 0.5), (QUIET, 0.5))) == ["Resumed", "Paused"]


def test_without_detection_the_client_alone_ends_turns() -> None:
    detector = TurnDetector(TurnConfig(None))
    assert not events(detector, (LOUD, 3), (QUIET, 3))
    assert detector.position_ms == (frames(3) * 2) * FRAME_MS
    assert not detector.speaking


def test_turning_detection_off_forgets_the_turn_and_another_threshold_keeps_it() -> None:
    detector = TurnDetector(TurnConfig())
    events(detector, (LOUD, 1))
    detector.configure(TurnConfig(silence_duration_ms=200))
    assert detector.speaking
    assert kinds(events(detector, (QUIET, 0.224))) == ["Paused", "Stopped"]
    events(detector, (LOUD, 1))
    detector.configure(TurnConfig(None))
    assert not detector.speaking


def test_a_turn_that_is_reset_ends_without_an_event_and_the_next_begins_after_it() -> None:
    detector = TurnDetector(TurnConfig())
    events(detector, (LOUD, 0.96))
    detector.reset()
    assert kinds(events(detector, (QUIET, 1))) == []
    assert kinds(events(detector, (LOUD, 1))) == ["Started"]


def test_silence_is_reported_once_until_there_is_speech_or_the_agent_has_spoken() -> None:
    detector = TurnDetector(TurnConfig(idle_timeout_ms=5_000))
    assert events(detector, (QUIET, 4.9)) == []
    assert events(detector, (QUIET, 60)) == [SilenceTimeout()]
    detector.restart_timeout()
    assert events(detector, (QUIET, 5.2)) == [SilenceTimeout()]
    assert kinds(events(detector, (LOUD, 6), (QUIET, 5.2))) == ["Started", "Paused", "Stopped"]
    assert events(detector, (QUIET, 1)) == [SilenceTimeout()]


def test_a_microphone_that_is_muted_for_ten_minutes_makes_nothing() -> None:
    assert not events(TurnDetector(TurnConfig()), (0.0, 600))


def test_speech_is_counted_from_its_last_pause() -> None:
    detector = TurnDetector(TurnConfig())
    assert detector.speech_ms() == 0
    events(detector, (LOUD, 0.32))
    assert detector.speech_ms() == 320
    events(detector, (QUIET, 0.096))
    assert detector.speech_ms() == 320  # a gap is no pause, and no speech
    events(detector, (LOUD, 0.064))
    assert detector.speech_ms() == 480
    events(detector, (QUIET, 0.16))
    assert detector.speech_ms() == 0
    events(detector, (LOUD, 0.096))
    assert detector.speech_ms() == 96


PROBABILITIES = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.0, 0.34, 0.35, 0.4, 0.5, 0.51, 1.0, math.nan]), st.floats(0, 1)),
        st.integers(1, 40),
    ),
    max_size=40,
)
CONFIGS = st.builds(
    TurnConfig,
    kind=st.sampled_from(["server_vad", "semantic_vad"]),
    threshold=st.floats(0, 1),
    prefix_padding_ms=st.integers(0, 2_000),
    silence_duration_ms=st.integers(0, 2_000),
    eagerness=st.sampled_from(["low", "medium", "high", "auto"]),
    idle_timeout_ms=st.one_of(st.none(), st.integers(1, 10_000)),
)


@given(config=CONFIGS, sound=PROBABILITIES)
def test_whatever_is_heard_turns_begin_and_end_in_order(
    config: TurnConfig, sound: list[tuple[float, int]]
) -> None:
    detector = TurnDetector(config)
    speaking = paused = False
    last_ms = 0
    heard: list[float] = []
    for probability, repeats in sound:
        for _ in range(repeats):
            found = detector.add(probability)
            heard.append(probability)
            for event in found:
                match event:
                    case SpeechStarted(start_ms):
                        assert not speaking
                        assert last_ms <= start_ms <= detector.position_ms
                        assert all(loud > config.threshold for loud in heard[-3:])
                        assert len(heard) >= 3
                        speaking, paused, last_ms = True, False, start_ms
                    case SpeechPaused(end_ms):
                        assert speaking
                        assert not paused
                        assert last_ms <= end_ms <= detector.position_ms - PAUSE_MS
                        paused = True
                    case SpeechResumed():
                        assert speaking
                        assert paused
                        assert probability > config.threshold
                        paused = False
                    case SpeechStopped(end_ms):
                        assert speaking
                        assert end_ms == detector.position_ms
                        assert not probability > config.threshold
                        speaking, last_ms = False, end_ms
                    case SilenceTimeout():
                        assert not speaking
            assert detector.speaking == speaking
            assert 0 <= detector.speech_ms() <= detector.position_ms
            assert detector.position_ms == len(heard) * FRAME_MS


@given(silence_ms=st.integers(200, 2_000), speech=st.floats(0.1, 3))
def test_a_turn_never_ends_before_its_quiet_is_over(silence_ms: int, speech: float) -> None:
    detector = TurnDetector(TurnConfig(silence_duration_ms=silence_ms))
    events(detector, (LOUD, speech))
    began_ms = detector.position_ms
    (*_, stopped) = events(detector, (QUIET, 3))
    assert stopped == SpeechStopped(began_ms + math.ceil(silence_ms / FRAME_MS) * FRAME_MS)


WORDS = tomllib.loads((ROOT / "tests" / "agent" / "words.toml").read_text())


@pytest.mark.parametrize("text", [text for listed in WORDS["backchannels"].values() for text in listed])
def test_a_backchannel_does_not_stop_the_agent(text: str) -> None:
    assert is_backchannel(text)
    assert not is_barge_in(3_000, text)


@pytest.mark.parametrize("text", [text for listed in WORDS["interruptions"].values() for text in listed])
def test_real_words_do(text: str) -> None:
    assert not is_backchannel(text)
    assert is_barge_in(350, text)


def test_two_words_stop_it_however_fast_and_one_only_after_350_ms() -> None:
    assert is_barge_in(200, "Paris, please!")
    assert not is_barge_in(320, "Paris")
    assert is_barge_in(352, "Paris")


def test_a_word_that_nobody_murmurs_stops_it_at_once() -> None:
    for text in ("Stop", "Wait,", "Warum", "¿Qué?", "잠깐만", "रुको", "等等"):
        assert is_barge_in(224, text, -2.5), text


# What Whisper base made of murmurs in eight voices, and of what people say into an answer.
MISHEARD = [
    ("Apple", -0.28),
    ("Bye-bye.", -0.42),
    ("men and", -0.44),
    ("Get her.", -0.48),
    ("Pa-ha", -0.63),
    ("Ah, no.", -1.57),
    ("I hope so.", -1.72),
]
SAID = [
    ("How much", -0.77),
    ("Actually", -1.69),
    ("Turn on the", -0.36),
    ("Letter, please.", -0.28),
    ("I want to do it.", -0.45),
    ("一个问题", -0.3),
]


def test_words_that_are_short_and_doubtful_are_a_murmur_until_they_are_longer_than_one() -> None:
    for text, likely in MISHEARD:
        assert not is_barge_in(416, text, likely), text
        assert is_doubtful(416, text, likely), text
        assert is_barge_in(832, text, likely), text
    for text, likely in SAID:
        assert is_barge_in(480, text, likely), text
        assert not is_doubtful(480, text, likely), text


def test_a_recognizer_that_does_not_tell_its_doubts_is_believed() -> None:
    for text, _ in MISHEARD:
        assert is_barge_in(416, text), text
        assert not is_doubtful(416, text, None), text


@pytest.mark.parametrize("text", ["", None, "  "])
def test_speech_whose_words_are_not_known_stops_it_once_it_is_longer_than_a_backchannel(
    text: str | None,
) -> None:
    assert not is_barge_in(600, text)
    assert is_barge_in(832, text)


@pytest.mark.parametrize("text", [text for listed in WORDS["whole"].values() for text in listed])
def test_the_speaker_of_a_whole_sentence_may_be_done(text: str) -> None:
    assert is_whole_sentence(text)


@pytest.mark.parametrize("text", [text for listed in WORDS["unfinished"].values() for text in listed])
def test_the_speaker_of_half_a_sentence_is_not(text: str) -> None:
    assert not is_whole_sentence(text)
