"""The simulation of a fleet, against what queueing theory knows, and against the hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fleet.simulation import Report, Simulation, Wheel
from benchmarks.fleet.tiers import ANSWER_TOKENS, MODAL, Design, Instance, Scaling, on_gpus, projected_steps_s
from benchmarks.fleet.traffic import CURVE, Duration, Traffic, people
from orpheus.vocabulary import TOKENS_PER_S

FIXED = Scaling("fixed", every_s=1e6, start_s=0, window_s=0, least=1, most=1)
ALWAYS = ((0.0, 1.0), (24.0, 1.0))


def queue(servers: int, load: float, waiting: int, service: Duration, seconds: float) -> Report:
    """Poisson arrivals at one instance whose streams run at the same speed, however many there are."""
    instance = Instance(servers, waiting, np.ones(1), np.zeros(1), np.ones(1), np.ones(11))
    silence = Duration(np.array([1.0]))
    at_once = load * servers * (silence.mean_s + service.mean_s) / service.mean_s
    asking = Traffic(at_once, silence, service, turns=1.0, curve=ALWAYS)
    design = Design(instance, 10**9, FIXED, 1.0)
    return Simulation(asking, design, tick_s=0.02, tries=1, seed=7).run(seconds, settle_s=30)


def waits_s(report: Report) -> float:
    return sum(wait * count for (wait, _), count in report.answers.items()) / report.answers.total()


def erlang_b(servers: int, offered: float) -> float:
    refused = 1.0
    for number in range(1, servers + 1):
        refused = offered * refused / (number + offered * refused)
    return refused


@pytest.mark.parametrize("service", [Duration(np.array([1.0])), Duration.exponential(1.0)])
def test_without_a_queue_as_many_are_refused_as_by_erlangs_formula_whatever_the_length_of_speech(
    service: Duration,
) -> None:
    report = queue(5, 0.8, 0, service, 600)
    assert report.refused_share == pytest.approx(erlang_b(5, 4.0), rel=0.12)
    assert report.given_up == report.told_to_come_back


def test_one_server_of_constant_times_makes_wait_half_as_long_as_one_of_exponential_times() -> None:
    load = 0.7
    constant = waits_s(queue(1, load, 10**6, Duration(np.array([1.0])), 2500))
    exponential = waits_s(queue(1, load, 10**6, Duration.exponential(1.0), 2500))
    assert constant == pytest.approx(load / (2 * (1 - load)), rel=0.12)  # M/D/1
    assert exponential == pytest.approx(load / (1 - load), rel=0.2)  # M/M/1


def test_a_distribution_keeps_its_mean_on_the_grid_and_a_wheel_loses_nothing() -> None:
    human = people(100).human
    shares = human.shares(0.5)
    assert (shares * np.arange(len(shares))).sum() * 0.5 == pytest.approx(human.mean_s, rel=1e-3)
    wheel = Wheel(shares, np.random.default_rng(1), offset=5)
    wheel.add(1_000)
    assert wheel.turn() == 0
    wheel.add(2_000, later=5)
    wheel.fill(500)
    assert sum(wheel.turn() for _ in range(len(shares) + 6)) == 3_500


def test_a_day_begins_and_ends_alike_and_its_peak_is_one() -> None:
    traffic = people(1_000)
    assert traffic.share(0) == pytest.approx(traffic.share(24 * 3600 - 1), abs=0.01)
    assert traffic.share(20 * 3600) == max(share for _, share in CURVE) == 1


def test_as_many_converse_at_once_as_were_asked_for() -> None:
    """By Little's law: turns a second times how long one takes."""
    traffic = replace(people(2_000), curve=ALWAYS)
    report = Simulation(traffic, on_gpus(MODAL, 0.7), tick_s=0.5).run(600, settle_s=120)
    waited = waits_s(report) + report.first_audio_s(0.5, np.ones(11))
    turn_s = traffic.human.mean_s + traffic.reply.mean_s + waited
    assert report.turns / 600 * turn_s == pytest.approx(2_000, rel=0.05)
    assert report.refused_share == 0


def test_a_full_fleet_refuses_grows_once_new_ones_have_started_and_shrinks_when_it_is_not_needed() -> None:
    curve = ((0.0, 0.1), (0.05, 0.1), (0.1, 1.0), (0.4, 1.0), (0.41, 0.05), (24.0, 0.05))
    scaling = Scaling("quick", every_s=5, start_s=60, window_s=120)
    traffic = replace(people(1_000), curve=curve)
    report = Simulation(traffic, on_gpus(scaling, 0.8)).run(2_700)
    ready = [running for *_, running in report.series]
    streams = [active / max(1, running) for _, active, running in report.series]
    assert report.told_to_come_back > report.given_up >= 0
    assert report.told_to_come_back > 0
    assert max(streams) <= 32
    assert ready[0] < 5 < 12 < max(ready) == report.most_llamas
    assert ready[-1] < max(ready) / 4
    assert report.usd > 0


def test_the_documentation_says_what_an_l40s_is_projected_to_do() -> None:
    docs = Path(__file__).parents[1] / "docs"
    scale, deploy = (docs.joinpath(name).read_text(encoding="utf-8") for name in ("scale.md", "deploy.md"))
    assert f"{projected_steps_s([32])[0] * 1000:.1f} ms a step at 32 streams" in scale
    in_time = int(np.searchsorted(projected_steps_s(range(1, 255)), 1 / TOKENS_PER_S))
    assert f"{in_time} streams on an L40S at the {ANSWER_TOKENS:.0f} tokens" in " ".join(deploy.split())
