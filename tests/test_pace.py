import pytest

from orpheus import pace
from orpheus.pace import CUSHION_FRAMES, LONGEST_S, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]

    class Stopped:
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(pace, "time", Stopped)
    return now


def frames(measured: Pace, clock: list[float], count: int, every_s: float) -> None:
    for _ in range(count):
        clock[0] += every_s
        measured.frames(1, every_s)


def test_with_nobody_else_a_listener_starts_at_once(clock: list[float]) -> None:
    assert Pace().cushion_s() == 0


def test_a_fast_tier_1_asks_for_less_than_the_first_frame_holds(clock: list[float]) -> None:
    measured = Pace()
    frames(measured, clock, 100, 0.008)
    assert measured.cushion_s() < 2048 / 24_000


def test_a_loaded_one_asks_for_some_frames_in_hand(clock: list[float]) -> None:
    measured = Pace()
    frames(measured, clock, 100, 0.07)
    assert measured.cushion_s() == pytest.approx(CUSHION_FRAMES * 0.07, rel=0.01)


def test_what_was_measured_long_ago_says_nothing(clock: list[float]) -> None:
    measured = Pace()
    frames(measured, clock, 100, 0.07)
    clock[0] += 2
    assert measured.cushion_s() == 0
    frames(measured, clock, 1, 0.01)
    assert measured.cushion_s() < 0.01


def test_a_reader_who_pauses_is_not_the_pace_of_the_machine(clock: list[float]) -> None:
    measured = Pace()
    measured.frames(1, 60.0)
    assert measured.cushion_s() <= CUSHION_FRAMES * LONGEST_S
