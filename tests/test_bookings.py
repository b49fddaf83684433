"""When those who find a service full are told to come back, in simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
from types import SimpleNamespace

import pytest

from orpheus import bookings
from orpheus.bookings import FIRST_GUESS_S, LATEST_S, MEMORY, Bookings, UsualTime


class Clock:
    now_s = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bookings, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def served(clock: Clock, callers: int, places: int, hold_s: tuple[float, float], *, known: bool) -> int:
    """How many of so many callers at once are served, if each tries again twice when it is told to."""
    chance = random.Random(7)
    usual = UsualTime()
    if known:
        usual.add(sum(hold_s) / 2)
    booked = Bookings(places, usual)
    numbers = itertools.count()
    events: list[tuple[float, int, int | None]] = [(clock.now_s, next(numbers), 0) for _ in range(callers)]
    held: dict[int, float] = {}
    ended = 0
    ends: dict[int, int] = {}
    while events:
        clock.now_s, number, attempt = heapq.heappop(events)
        if attempt is None:
            booked.returned(clock.now_s - held[ends[number]], len(held))
            del held[ends[number]]
            ended += 1
        elif len(held) < places:
            held[number] = clock.now_s
            end = next(numbers)
            ends[end] = number
            heapq.heappush(events, (clock.now_s + chance.uniform(*hold_s), end, None))
        elif attempt < 2:
            wait_s = booked.book([clock.now_s - since_s for since_s in held.values()])
            heapq.heappush(events, (clock.now_s + wait_s, next(numbers), attempt + 1))
    return ended


@pytest.mark.parametrize(("callers", "places"), [(24, 8), (32, 8), (32, 10), (64, 32), (6, 1)])
@pytest.mark.parametrize("hold_s", [(0.2, 0.4), (3, 9), (8, 8)])
def test_all_of_many_callers_at_once_are_served_within_two_retries(
    clock: Clock, callers: int, places: int, hold_s: tuple[float, float]
) -> None:
    assert served(clock, callers, places, hold_s, known=True) == callers


@pytest.mark.parametrize("hold_s", [(0.2, 0.4), (2, 6), (4, 8), (5, 15)])
def test_they_are_served_by_a_server_that_has_just_started_too(
    clock: Clock, hold_s: tuple[float, float]
) -> None:
    assert served(clock, 32, 8, hold_s, known=False) == 32


def test_each_is_told_a_time_of_its_own_from_the_first_free_place_on(clock: Clock) -> None:
    usual = UsualTime()
    usual.add(4.0)
    booked = Bookings(2, usual)
    waits_s = [booked.book([1.0, 2.0]) for _ in range(4)]
    # Two places are held for 4 s each, one is given back every 2 s; and half as long again for good measure.
    assert waits_s == pytest.approx([2, 5, 8, 11])


def test_bookings_pass_if_nobody_comes_back(clock: Clock) -> None:
    booked = Bookings(1)
    first_s = booked.book([0.0])
    booked.book([0.0])
    clock.now_s += 100
    assert booked.book([0.0]) == first_s == FIRST_GUESS_S


def test_nobody_is_told_to_wait_longer_than_a_client_would(clock: Clock) -> None:
    usual = UsualTime()
    usual.add(30.0)
    booked = Bookings(1, usual)
    waits_s = [booked.book([0.0]) for _ in range(50)]
    assert max(waits_s) <= LATEST_S
    assert len(set(waits_s)) == 50  # spread all the same
    clock.now_s += LATEST_S
    assert booked.book([0.0]) <= LATEST_S


def test_a_place_held_for_longer_than_usual_is_not_expected_at_once(clock: Clock) -> None:
    usual = UsualTime()
    usual.add(2.0)
    assert Bookings(2, usual).book([10.0, 6.0]) >= 2.0


def test_who_asks_again_before_its_time_keeps_its_booking(clock: Clock) -> None:
    booked = Bookings(1)
    first_s = booked.book([0.0], "a")
    clock.now_s += 1
    assert booked.book([1.0], "a") == pytest.approx(first_s - 1)
    other_s = booked.book([1.0], "b")
    assert other_s > first_s
    clock.now_s += first_s
    assert booked.book([0.0], "a") > other_s - first_s  # its time has passed: a new one, after the other's


def test_speech_alone_says_nothing_of_how_long_it_takes_among_many(clock: Clock) -> None:
    booked = Bookings(4)
    booked.returned(0.1, taken=1)
    assert booked.book([0.0] * 4) == FIRST_GUESS_S
    booked.returned(3.0, taken=2)
    clock.now_s += 100
    assert booked.book([0.0] * 4) == 3.0


def test_the_usual_time_follows_the_last_ones() -> None:
    usual = UsualTime()
    usual.add(1.0)
    assert usual.seconds == 1.0
    usual.add(3.0)
    assert usual.seconds == 2.0
    for _ in range(10 * MEMORY):
        usual.add(6.0)
    assert usual.seconds == pytest.approx(6.0, abs=0.01)
