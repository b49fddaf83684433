"""Hostile clients, a tier 1 that misbehaves, and bad set-ups, against real processes on the embedded voice.

    python -m benchmarks.faults [--quick] [--only WORD] [--every N]

One line a case: whether it held, how long `/live` was kept waiting meanwhile and, in brackets, just before, how much
memory was added at its peak, and what did not hold. The last line is one JSON object; the exit code is 1 if a case
failed. Without --quick every flood lasts longer, and ten minutes of churn follow. How blockage is told from a busy
machine is in benchmarks/faults/stage.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from benchmarks.faults import churn, clients, faked, setups
from benchmarks.faults.stage import KEY, KEYED, Case, Group, Results, Stage, Tier, perform
from orpheus.settings import PREFIX

PLACES = "24"
FEW_DESCRIPTORS = 160


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="within five minutes on two cores")
    parser.add_argument("--only", default="", help="the cases whose kind or name has this word")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one case in N of each group")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    started_s = time.monotonic()
    results = Results()

    def choose(cases: Iterable[Case]) -> list[Case]:
        chosen = [case for case in cases if options.only in f"{case.kind}: {case.name}"]
        return chosen[:: options.every]

    with contextlib.ExitStack() as started:
        chosen = [group for group in groups(started, options.quick, choose) if group.cases]
        perform(chosen, results)
    for outcome in results.failed:
        print(outcome.line())
    print(json.dumps({**results.summary(), "seconds": round(time.monotonic() - started_s)}))
    return 1 if results.failed or not results.outcomes else 0


def groups(
    started: contextlib.ExitStack, quick: bool, chosen: Callable[[Iterable[Case]], list[Case]]
) -> Iterator[Group]:
    """What to run, with its tiers starting."""
    seconds = 1.0 if quick else 10.0
    against_tier_2, against_tier_1 = chosen(clients.cases(quick=quick)), chosen(clients.tier_1_cases())
    churning = chosen(churn.cases(20.0 if quick else 600.0))
    if against_tier_2 or against_tier_1 or churning:
        tier_1 = Tier(started, "llama", {"streams": PLACES})
        settings = {"llama_endpoint": tier_1.url, "max_requests": PLACES, "api_keys": KEY}
        tier_2 = Tier(started, "speech", settings)
        yield Group(Stage((tier_2, tier_1), KEYED, seconds), against_tier_2)
        yield Group(Stage((tier_1,), (), seconds), against_tier_1)
        yield Group(Stage((tier_2, tier_1), KEYED), churning)
    if crowded := chosen(clients.descriptor_cases()):
        tier_1 = Tier(started, "llama", {})
        tier_2 = Tier(started, "speech", {"llama_endpoint": tier_1.url}, FEW_DESCRIPTORS)
        yield Group(Stage((tier_2, tier_1)), crowded, at_once=1)
    yield from faked.groups(started, chosen)
    yield Group(Stage(()), chosen(setups.cases()), setups.AT_ONCE)


if __name__ == "__main__":
    sys.exit(main())
