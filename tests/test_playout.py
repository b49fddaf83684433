from __future__ import annotations

import time

import pytest

from orpheus.playout import TOLERANCE_S, PlayoutClock


def clock_after(*arrivals: tuple[float, float]) -> PlayoutClock:
    """A clock that was given audio at the given times: (now_s, audio_s) each."""
    clock = PlayoutClock()
    for now_s, audio_s in arrivals:
        clock.add(audio_s, now_s)
    return clock


def test_audio_that_arrives_before_it_is_needed_is_not_an_underrun() -> None:
    clock = clock_after((10.0, 0.5), (10.2, 0.5), (10.9, 0.5), (11.4, 0.1))
    assert (clock.underruns, clock.underrun_s) == (0, 0.0)
    assert clock.ends_s == pytest.approx(11.6)


def test_waiting_for_the_first_audio_is_not_an_underrun() -> None:
    assert clock_after((99.0, 0.1)).underruns == 0


def test_each_gap_is_counted_and_playout_goes_on_after_it() -> None:
    clock = clock_after((0.0, 0.1), (0.5, 0.1), (0.55, 0.1), (1.0, 0.1))
    assert clock.underruns == 2
    assert clock.underrun_s == pytest.approx(0.4 + 0.3)
    assert clock.longest_underrun_s == pytest.approx(0.4)


def test_a_gap_a_sound_card_hides_is_not_counted_but_moves_the_end() -> None:
    clock = clock_after((0.0, 0.1), (0.1 + TOLERANCE_S / 2, 0.1))
    assert clock.underruns == 0
    assert clock.ends_s == pytest.approx(0.2 + TOLERANCE_S / 2)


def test_a_gap_without_text_to_speak_is_excused() -> None:
    clock = clock_after((0.0, 0.1))
    clock.add(0.1, 0.9, excused_s=0.8)
    assert clock.underruns == 0
    clock.add(0.1, 2.0, excused_s=0.5)
    assert clock.underrun_s == pytest.approx(0.5)


def test_the_buffer_holds_what_was_received_and_not_played_yet() -> None:
    assert PlayoutClock().buffered_s() == 0.0
    clock = clock_after((5.0, 0.5), (5.1, 0.5))
    assert clock.buffered_s(5.1) == pytest.approx(0.9)
    assert clock.buffered_s(5.7) == pytest.approx(0.3)
    assert clock.buffered_s(7.0) == 0.0


def test_times_default_to_the_monotonic_clock() -> None:
    clock = PlayoutClock()
    clock.add(100.0)
    assert 0 <= time.monotonic() + 100.0 - (clock.ends_s or 0.0) < 50
    assert 50 < clock.buffered_s() <= 100
