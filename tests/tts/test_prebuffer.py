import pytest

from orpheus.tts import prebuffer
from orpheus.tts.prebuffer import CARRIED, LONGEST_S, NEXT_FRAMES, NEXT_S, PrebufferEstimator
from orpheus.vocabulary import FRAME_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]

    class Stopped:
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(prebuffer, "time", Stopped)
    return now


def frames(measured: PrebufferEstimator, clock: list[float], count: int, every_s: float) -> None:
    for _ in range(count):
        clock[0] += every_s
        measured.frames(1, every_s)


def test_a_lone_listener_starts_at_once(clock: list[float]) -> None:
    assert PrebufferEstimator().prebuffer_s() == 0


def test_a_fast_tier_1_needs_less_than_the_first_frame(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    frames(measured, clock, 100, 0.008)
    assert measured.prebuffer_s() < FRAME_S


def test_a_loaded_tier_1_needs_what_outlasts_the_codecs_next_samples(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    frames(measured, clock, 100, 0.07)
    assert measured.prebuffer_s() == pytest.approx(3 * 0.07 - NEXT_S, rel=0.01)


def uneven_by(clock: list[float], mean_s: float, deviation_s: float) -> float:
    """How much more is held for frames that are late and early by turns."""
    measured = PrebufferEstimator()
    for n in range(400):
        clock[0] += 0.01
        measured.frames(1, mean_s + (deviation_s if n % 2 else -deviation_s))
    return measured.prebuffer_s() - max(NEXT_FRAMES * mean_s, 3 * mean_s - NEXT_S)


def test_an_uneven_tier_1_needs_more_where_little_is_gained_with_each_frame(clock: list[float]) -> None:
    fast, slow, slower = (uneven_by(clock, mean_s, 0.02) for mean_s in (0.02, 0.06, 0.09))
    assert 0.03 < fast < 0.04
    assert 2 * fast < slow < slower == pytest.approx(LONGEST_S, abs=0.01)


def test_frames_that_come_four_at_a_time_are_not_uneven(clock: list[float]) -> None:
    single, four = PrebufferEstimator(), PrebufferEstimator()
    for n in range(100):
        clock[0] += 0.03
        single.frames(1, 0.03)
        if n % 4 == 3:
            four.frames(4, 0.12)
    clock[0] += 0.03
    assert four.prebuffer_s() == pytest.approx(single.prebuffer_s(), rel=0.1)


def test_a_slow_moment_is_remembered_with_many_streams(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    frames(measured, clock, 100, 0.06)
    before_s = measured.prebuffer_s()
    for _ in range(30):
        frames(measured, clock, 1, 0.001)  # thirty frames in thirty milliseconds
    assert measured.prebuffer_s() > 0.8 * before_s


def test_a_short_first_segment_waits_for_the_start_of_the_next(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    measured.started(0.4)
    frames(measured, clock, 50, 0.07)
    assert measured.start_s() > 0.4
    alone_s = measured.prebuffer_s()
    assert alone_s < measured.prebuffer_s(0.6) < measured.start_s()
    assert measured.prebuffer_s(30.0) == alone_s, "a long segment gains enough while it is heard"
    assert measured.prebuffer_s(0.1) >= 0.1


def test_a_machine_slower_than_playout_waits_for_what_it_will_lose(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    frames(measured, clock, 100, 1.1 * FRAME_S)
    lost_s = measured.prebuffer_s(3.0, last=True) - measured.prebuffer_s(last=True)
    assert lost_s == pytest.approx(0.3, rel=0.01)


def test_those_who_come_together_to_an_idle_machine_wait_until_something_was_measured(
    clock: list[float],
) -> None:
    measured = PrebufferEstimator()
    measured.streams = 1
    measured.started(0.05)
    assert measured.prebuffer_s() == 0
    measured.streams = 8
    assert measured.prebuffer_s() == LONGEST_S
    frames(measured, clock, 20, 0.03)
    assert measured.prebuffer_s() < FRAME_S


def test_more_streams_than_were_measured_are_slower_unless_the_machine_is_known_not_to_carry_them(
    clock: list[float],
) -> None:
    measured = PrebufferEstimator()
    measured.streams = 4
    frames(measured, clock, 300, 0.02)
    of_four_s = measured.prebuffer_s()
    measured.streams = 8
    assert measured.prebuffer_s() == pytest.approx(2 * of_four_s, rel=0.01)
    measured.streams = 100
    assert measured.prebuffer_s() == pytest.approx(3 * CARRIED * FRAME_S - NEXT_S, rel=0.01)
    frames(measured, clock, 300, 0.08)
    assert measured.prebuffer_s() == pytest.approx(3 * 0.08 - NEXT_S, rel=0.01)


def test_with_leveling_the_next_segment_starts_that_much_later(clock: list[float]) -> None:
    plain, judged = PrebufferEstimator(), PrebufferEstimator(0.5)
    for measured in (plain, judged):
        measured.started(0.2)
        frames(measured, clock, 20, FRAME_S / 2)
    assert judged.start_s() - plain.start_s() == pytest.approx(0.25, rel=0.01)


def test_old_measurements_are_dropped(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    measured.started(0.5)
    frames(measured, clock, 100, 0.07)
    clock[0] += 2
    assert measured.prebuffer_s(0.5) == measured.start_s() == 0
    frames(measured, clock, 1, 0.01)
    assert measured.prebuffer_s() < FRAME_S


def test_a_paused_reader_does_not_count_as_a_slow_machine(clock: list[float]) -> None:
    measured = PrebufferEstimator()
    measured.frames(1, 60.0)
    assert measured.prebuffer_s() <= (NEXT_FRAMES + 2) * LONGEST_S
