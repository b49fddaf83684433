"""Checks → lines on the console as they come, and how many failed.

Knows nothing of what is checked. On a terminal the check under way shows its time; elsewhere every ten seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from orpheus.ops.doctor.check import Check, Finding, run

COLOURS = {"passed": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
SAY_EVERY_S = 10.0


def examine(checks: Sequence[Check], out: Console, progress: Console) -> int:
    """Print a line for each finding; → the number of those that failed."""
    counts: Counter[str] = Counter()
    without: dict[str, str] = {}  # checks that did not pass, and the first cause of it
    for check in checks:
        missing = next((without[name] for name in check.needs if name in without), None)
        if missing is not None:
            without[check.name] = missing
            _print(out, check, Finding("skipped", f"needs {missing}, which failed."), counts)
            continue
        with _ticking(check, progress) as tick:
            for finding in run(check, tick):
                _print(out, check, finding, counts)
                if finding.status == "failed":
                    without[check.name] = check.name
    words = {"warning": "warning" if counts["warning"] == 1 else "warnings"}
    told = [f"{counts[name]} {words.get(name, name)}" for name in COLOURS if counts[name]]
    out.print(f"\n{', '.join(told)}.", highlight=False)
    return counts["failed"]


def _print(out: Console, check: Check, finding: Finding, counts: Counter[str]) -> None:
    counts[finding.status] += 1
    line = Text(f"{finding.status:8s} ", COLOURS[finding.status])
    line.append(f"{check.name:10s} {finding.said}", "default")
    out.print(line, soft_wrap=True, highlight=False)


@contextmanager
def _ticking(check: Check, progress: Console) -> Iterator[Callable[[float, str], None]]:
    def line(took_s: float, waits_for: str) -> str:
        named = f"{check.name}: {waits_for}" if waits_for else check.name
        return f"{named}, {took_s:.0f} s of at most {check.limit_s:g}"

    if check.shows_progress:
        yield lambda took_s, waits_for: None
    elif progress.is_terminal:
        with progress.status(check.name) as status:
            yield lambda took_s, waits_for: status.update(escape(line(took_s, waits_for)))
    else:
        said, said_of = time.monotonic(), ""

        def say(took_s: float, waits_for: str) -> None:
            nonlocal said, said_of
            if time.monotonic() - said > SAY_EVERY_S or waits_for != said_of:
                said, said_of = time.monotonic(), waits_for
                progress.print(f"… {line(took_s, waits_for)}", highlight=False, markup=False, soft_wrap=True)

        yield say
