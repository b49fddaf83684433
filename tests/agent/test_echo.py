from __future__ import annotations

import numpy as np

from orpheus.agent.echo import LIKE, MAYBE, is_echo, likeness

RATE = 16_000
_random = np.random.default_rng(7)


def voice(seconds: float, pitch_hz: float) -> np.ndarray:
    """Something like speech: a buzz whose pitch and loudness wander, and breath."""
    count = round(seconds * RATE)
    wander = np.convolve(_random.normal(0, 1, count + 800), np.ones(801) / 801, "valid")
    phase = np.cumsum(2 * np.pi * pitch_hz * (1 + 3 * wander) / RATE)
    buzz = sum(np.sin(n * phase) / n for n in range(1, 12))
    loud = np.abs(np.convolve(_random.normal(0, 1, count + 1600), np.ones(1601) / 1601, "valid"))
    return (0.3 * loud / loud.max() * (buzz + _random.normal(0, 0.3, count))).astype(np.float32)


def test_a_fainter_later_copy_is_alike_whatever_its_level_and_its_place() -> None:
    played = voice(5, 170)
    for at, level in ((0, 0.1), (31_234, 0.01), (len(played) - 10_240, 1.0)):
        heard = level * played[at : at + 10_240] + _random.normal(0, level * 0.005, 10_240)
        assert likeness(heard.astype(np.float32), played) > LIKE


def test_the_beginning_and_the_end_of_an_answer_are_alike_with_the_silence_around_them() -> None:
    played, silence = voice(5, 170), np.zeros(4_800, np.float32)
    begins = np.concatenate((silence, 0.1 * played[:5_440]))
    ends = np.concatenate((0.1 * played[-5_440:], silence))
    assert likeness(begins.astype(np.float32), played) > LIKE
    assert likeness(ends.astype(np.float32), played) > LIKE


def test_another_voice_is_not_alike_even_above_an_echo() -> None:
    played = voice(5, 170)
    for pitch_hz in (100, 170, 220):
        other = voice(0.64, pitch_hz)
        assert likeness(other, played) < MAYBE
        assert likeness(other + 0.1 * played[20_000:30_240], played) < MAYBE


def test_silence_is_like_nothing() -> None:
    nothing, something = np.zeros(10_240, np.float32), voice(5, 170)
    assert likeness(nothing, something) == likeness(something[:10_240], nothing[:10_240]) == 0
    assert likeness(something, something[:100]) == likeness(something[:0], something) == 0


def test_words_that_the_agent_says_are_its_own_where_the_sound_may_be_or_they_are_many() -> None:
    played = "The capital of France is Paris."
    assert is_echo(0.1, "the capital, of France", played)
    assert not is_echo(0.1, "capital of France", played)
    assert is_echo(0.45, "capital of France", played)
    assert not is_echo(0.45, "capital of Spain", played)
    assert not is_echo(0.45, "pita", played)
    assert not is_echo(0.45, "", played)


def test_what_began_as_an_echo_stays_one_for_longer() -> None:
    assert is_echo(0.4, "", "", already=True)
    assert not is_echo(0.4, "", "")
    assert not is_echo(0.3, "", "", already=True)
