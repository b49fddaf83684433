"""Checks run one after the other, each in its own process, and their findings as lines on the console.

A process and not a thread: a library that hangs or crashes, as llama.cpp does on some damaged files, is one failed
line instead of the end of the doctor.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from orpheus.errors import OrpheusError
from orpheus.redaction import redacted

Status = Literal["passed", "warning", "failed", "skipped"]
COLOURS: dict[Status, str] = {"passed": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
TICK_S = 0.1
EXIT_S = 2.0  # for a process that is done to end by itself
REPORT_EVERY_S = 10.0  # while a check runs, without a terminal


@dataclass(frozen=True)
class Finding:
    """One line. A warning or a failure ends with what to do."""

    status: Status
    text: str


@dataclass(frozen=True)
class Waiting:
    """Not a finding: what the check is waiting for, shown beside its time."""

    for_what: str


def passed(text: str) -> Finding:
    return Finding("passed", text)


def warning(text: str) -> Finding:
    return Finding("warning", text)


def failed(text: str) -> Finding:
    return Finding("failed", text)


@dataclass(frozen=True)
class Check:
    """`look` is a function of a module, or a partial of one: it is sent to another process.

    `needs` names the checks without which this one has nothing to look at.
    """

    name: str
    look: Callable[[], Iterator[Finding | Waiting]]
    limit_s: float
    needs: tuple[str, ...] = ()
    shows_progress: bool = False  # by itself, on standard error


def examine(checks: Sequence[Check], out: Console, progress: Console) -> int:
    """Print a line for each finding. Returns how many failed."""
    counts: Counter[Status] = Counter()
    causes: dict[str, str] = {}  # by check that did not pass: the check that failed first

    def write(check: Check, finding: Finding) -> None:
        counts[finding.status] += 1
        line = Text(f"{finding.status:8s} ", COLOURS[finding.status])
        line.append(f"{check.name:10s} {redacted(finding.text)}", "default")
        out.print(line, soft_wrap=True, highlight=False)

    for check in checks:
        cause = next((causes[name] for name in check.needs if name in causes), None)
        if cause is not None:
            causes[check.name] = cause
            write(check, Finding("skipped", f"needs {cause}, which failed."))
            continue
        with _ticking(check, progress) as tick:
            for finding in run(check, tick):
                write(check, finding)
                if finding.status == "failed":
                    causes[check.name] = check.name
    words = {"warning": "warning" if counts["warning"] == 1 else "warnings"}
    summary = [f"{counts[status]} {words.get(status, status)}" for status in COLOURS if counts[status]]
    out.print(f"\n{', '.join(summary)}.", highlight=False)
    return counts["failed"]


def run(check: Check, tick: Callable[[float, str], None]) -> Iterator[Finding]:
    """The findings as they come. `tick` gets, every 0.1 s, the time taken so far and what the check waits for."""
    context = multiprocessing.get_context("spawn")  # not fork: torch and llama.cpp have threads
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(check, writer), daemon=True)
    process.start()
    writer.close()
    started_s = time.monotonic()
    waits_for = ""
    try:
        while True:
            took_s = time.monotonic() - started_s
            if reader.poll(TICK_S):
                finding: Finding | Waiting | None = reader.recv()
                if finding is None:
                    process.join(EXIT_S)
                    return
                if isinstance(finding, Waiting):
                    waits_for = finding.for_what
                else:
                    yield finding
            elif took_s > check.limit_s:
                yield failed(
                    f"no answer within {check.limit_s:g} s: the machine or the server is stuck or too slow; see its "
                    "log."
                )
                return
            tick(took_s, waits_for)
    except EOFError:
        process.join(EXIT_S)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        yield failed(f"the check crashed ({how}): a library or its file is damaged; install it again.")
    finally:
        process.kill()
        process.join()
        reader.close()


def _work(check: Check, results: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which kills this process
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    try:
        for finding in check.look():
            results.send(finding)
    except OrpheusError as error:
        results.send(failed(str(error)))
    except Exception as error:  # a line like any other: the checks after it are still worth having
        first = (str(error).splitlines() or [""])[0]
        results.send(failed(f"{type(error).__name__}: {first[:300]}"))
    results.send(None)


@contextmanager
def _ticking(check: Check, progress: Console) -> Iterator[Callable[[float, str], None]]:
    """Shows the running check and its time: on a terminal all the time, elsewhere every ten seconds."""

    def line(took_s: float, waits_for: str) -> str:
        name = f"{check.name}: {redacted(waits_for)}" if waits_for else check.name
        return f"{name}, {took_s:.0f} s of at most {check.limit_s:g}"

    if check.shows_progress:
        yield lambda took_s, waits_for: None
    elif progress.is_terminal:
        with progress.status(check.name) as status:
            yield lambda took_s, waits_for: status.update(escape(line(took_s, waits_for)))
    else:
        shown_s, shown = time.monotonic(), ""

        def show(took_s: float, waits_for: str) -> None:
            nonlocal shown_s, shown
            if time.monotonic() - shown_s > REPORT_EVERY_S or waits_for != shown:
                shown_s, shown = time.monotonic(), waits_for
                progress.print(f"… {line(took_s, waits_for)}", highlight=False, markup=False, soft_wrap=True)

        yield show
