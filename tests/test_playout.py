from __future__ import annotations

import pytest

from orpheus.playout import TOLERANCE_S, PlayoutClock


def played(*sent: tuple[float, float]) -> PlayoutClock:
    heard = PlayoutClock()
    for now_s, audio_s in sent:
        heard.add(audio_s, now_s)
    return heard


def test_audio_that_comes_before_it_is_needed_is_never_late() -> None:
    heard = played((10.0, 0.5), (10.2, 0.5), (10.9, 0.5), (11.4, 0.1))
    assert (heard.underruns, heard.underrun_s) == (0, 0.0)
    assert heard.ends_s == pytest.approx(11.6)


def test_waiting_for_the_first_audio_is_no_underrun() -> None:
    assert played((99.0, 0.1)).underruns == 0


def test_each_gap_is_counted_and_the_clock_starts_anew_after_it() -> None:
    heard = played((0.0, 0.1), (0.5, 0.1), (0.55, 0.1), (1.0, 0.1))
    assert heard.underruns == 2
    assert heard.underrun_s == pytest.approx(0.4 + 0.3)
    assert heard.longest_underrun_s == pytest.approx(0.4)


def test_a_gap_a_sound_card_hides_is_not_counted_but_moves_the_end() -> None:
    heard = played((0.0, 0.1), (0.1 + TOLERANCE_S / 2, 0.1))
    assert heard.underruns == 0
    assert heard.ends_s == pytest.approx(0.2 + TOLERANCE_S / 2)


def test_what_is_buffered_runs_out_in_real_time_and_not_below_nothing() -> None:
    clock = played((10.0, 0.5))
    assert [clock.buffered_s(now_s) for now_s in (10.0, 10.2, 11.0)] == pytest.approx([0.5, 0.3, 0.0])
    assert PlayoutClock().buffered_s(10.0) == 0.0


def test_a_gap_without_text_to_speak_is_excused() -> None:
    clock = played((0.0, 0.1))
    clock.add(0.1, 2.0, excused_s=1.9)
    assert clock.underruns == 0
