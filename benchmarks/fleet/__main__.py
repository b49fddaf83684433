"""What a fleet costs and how soon it answers, for 100 to 100,000 conversations at once and target loads of 0.5 to 0.9.

    python -m benchmarks.fleet [--quick]    a day of each, by Modal's autoscaler and by Kubernetes'
    python -m benchmarks.fleet --check      the same simulation against the real pair on this machine

Tables, a picture in benchmarks/results/fleet.png unless it is quick, and one JSON object on the last line. What is
assumed of people is in traffic.py, what is projected of GPUs in tiers.py, what the model leaves out in simulation.py.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.fleet import check
from benchmarks.fleet.simulation import Report, Simulation
from benchmarks.fleet.tiers import KUBERNETES, MODAL, SPREAD, Scaling, l40s, on_gpus, projected_steps_s
from benchmarks.fleet.traffic import BURST, BURST_AT_S, BURST_S, CURVE, DAY_S, people
from orpheus.ops.bench.show import save_picture

AT_ONCE = (100, 1_000, 10_000, 100_000)
LOADS, LOADS_QUICK = (0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 0.7, 0.9)
TICK_S, TICK_QUICK_S = 0.5, 2.0
SCALINGS = (MODAL, KUBERNETES)
AFTER_BURST_S = 600
SHOWN = (MODAL, 1_000, 0.7)  # the day in the picture
Key = tuple[Scaling, int, float]


def day(scaling: Scaling, at_once: int, load: float, tick_s: float) -> Report:
    """One day from the trough on, after an hour that does not count."""
    begins_s = min(CURVE, key=lambda point: point[1])[0] * 3600.0
    design = on_gpus(scaling, load)
    return Simulation(people(at_once), design, begins_s=begins_s, tick_s=tick_s).run(DAY_S, 3600)


def burst(scaling: Scaling, at_once: int, load: float, tick_s: float) -> Report:
    """The ten minutes after a burst at the peak."""
    traffic = replace(people(at_once), burst=BURST)
    simulation = Simulation(traffic, on_gpus(scaling, load), begins_s=BURST_AT_S - 3600, tick_s=tick_s)
    return simulation.run(AFTER_BURST_S, 3600)


def figures(report: Report, after: Report) -> dict[str, float]:
    spread = np.array(SPREAD)
    return {
        "burst_p99_ms": after.first_audio_s(0.99, spread) * 1000,
        "burst_refused_percent": 100 * after.refused_share,
        "burst_given_up_percent": 100 * after.given_up / max(1, after.turns),
        "p50_ms": report.first_audio_s(0.5, spread) * 1000,
        "p99_ms": report.first_audio_s(0.99, spread) * 1000,
        "refused_percent": 100 * report.refused_share,
        "given_up_percent": 100 * report.given_up / max(1, report.turns),
        "tier_1s": report.llama_s / report.took_s,
        "tier_1s_most": report.most_llamas,
        "tier_2s": report.speech_tier_s / report.took_s,
        "usd_hour": report.usd,
    }


def print_table(scaling: Scaling, found: dict[Key, dict[str, float]]) -> None:
    print(
        f"\n{scaling.name}: at least {scaling.least}, a start takes {scaling.start_s:g} s (assumed), one stops after "
        f"{scaling.window_s:g} s in which it was not\nneeded. Burst: the ten minutes after {BURST:.0%} more came within "
        f"{BURST_S:g} s at the peak. GPUs and US$ an hour are means over the day.\n"
        "                    a day                                burst\n"
        " at once  load    p50    p99 ms  told to wait       p99 ms  told to wait  gave up"
        "     L40S (most)         L4        US$"
    )
    for (by, at_once, load), row in found.items():
        if by is scaling:
            print(
                f"{at_once:8,d} {load:5.0%} {row['p50_ms']:6.0f} {row['p99_ms']:9.0f} {row['refused_percent']:12.3f}% "
                f"{row['burst_p99_ms']:12.0f} {row['burst_refused_percent']:12.2f}% "
                f"{row['burst_given_up_percent']:7.2f}% {row['tier_1s']:8,.1f} ({row['tier_1s_most']:5,.0f}) "
                f"{row['tier_2s']:10,.1f} {row['usd_hour']:10,.2f}"
            )


def draw(pyplot: Any, found: dict[Key, dict[str, float]], shown: Report) -> Any:
    figure, (soon, told, cost, course) = pyplot.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    for color, at_once in enumerate(AT_ONCE):
        for scaling, line in zip(SCALINGS, ("-", ":"), strict=True):
            rows = {load: row for (by, many, load), row in found.items() if (by, many) == (scaling, at_once)}
            look: dict[str, Any] = {"ls": line, "marker": "o", "ms": 3, "color": f"C{color}"}
            label = f"{at_once:,}" if scaling is MODAL else None
            soon.plot(list(rows), [row["burst_p99_ms"] / 1000 for row in rows.values()], label=label, **look)
            told.plot(list(rows), [row["burst_refused_percent"] for row in rows.values()], **look)
            cost.plot(list(rows), [1000 * row["usd_hour"] / at_once for row in rows.values()], **look)
    soon.set(title="After a burst: first audio, 99 of 100 within", ylabel="s", ylim=(0, None))
    soon.legend(title="conversations at the peak", fontsize=8)
    told.set(title="After a burst: turns told to wait", ylabel="%", ylim=(0, None))
    cost.set(title="US$ an hour for 1,000 at the peak", ylim=(0, None))
    for axis in (soon, told, cost):
        axis.set(xticks=LOADS, xlabel="target load" + (" (dotted: Kubernetes)" if axis is soon else ""))
    hours, each = [at_s / 3600 for at_s, *_ in shown.series], l40s().streams
    course.plot(hours, [active for _, active, _ in shown.series], lw=0.7, label="streams")
    places = [ready * each for *_, ready in shown.series]
    course.step(hours, places, lw=1, label="places of running L40S")
    scaling, at_once, load = SHOWN
    course.set(
        title=f"A day: {at_once:,}, {scaling.name}, {load:g}", xlabel="hours after the trough", ylim=(0, None)
    )
    course.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer loads, coarser ticks")
    parser.add_argument("--check", action="store_true", help="against the real pair on this machine")
    options = parser.parse_args()
    if options.check:
        measured = check.measure()
        result = check.show(measured, check.simulate(measured))
        print(json.dumps({name: round(value, 2) for name, value in result.items()}))
        return
    began_s, tick_s = time.monotonic(), TICK_QUICK_S if options.quick else TICK_S
    rows = (1, 8, 16, 32)
    steps = ", ".join(f"{n}: {s * 1000:.1f}" for n, s in zip(rows, projected_steps_s(rows), strict=True))
    print(f"GPUs are projected, not measured: an L40S's step in ms by streams, {steps}; real time is 12.2.")
    reports = {
        (scaling, at_once, load): day(scaling, at_once, load, tick_s)
        for scaling in SCALINGS
        for at_once in AT_ONCE
        for load in (LOADS_QUICK if options.quick else LOADS)
    }
    found = {key: figures(report, burst(*key, tick_s)) for key, report in reports.items()}
    for scaling in SCALINGS:
        print_table(scaling, found)
    if not options.quick:
        save_picture(RESULTS / "fleet.png", lambda pyplot: draw(pyplot, found, reports[SHOWN]))
    print(f"\n{len(found)} days in {time.monotonic() - began_s:.0f} s")
    named = {
        f"{scaling.name.lower()}_{at_once}_{load:g}": {name: round(value, 3) for name, value in row.items()}
        for (scaling, at_once, load), row in found.items()
    }
    print(json.dumps(named))


if __name__ == "__main__":
    main()
