"""A check → its findings, from a process of its own that is killed when its time is over.

Knows nothing of what is checked. A process and not a thread: a library that hangs or crashes, as llama.cpp does on
some damaged files, is one failed line instead of the end of the doctor.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

from orpheus.errors import OrpheusError

Status = Literal["passed", "warning", "failed", "skipped"]
TICK_S = 0.1
END_S = 2.0  # for a finished process to end by itself


@dataclass(frozen=True)
class Finding:
    """One line; where it is no pass, `said` ends with what to do."""

    status: Status
    said: str


@dataclass(frozen=True)
class Waiting:
    """No finding yet: what the check waits for, to be shown beside its time."""

    for_what: str


def passed(said: str) -> Finding:
    return Finding("passed", said)


def warning(said: str) -> Finding:
    return Finding("warning", said)


def failed(said: str) -> Finding:
    return Finding("failed", said)


@dataclass(frozen=True)
class Check:
    """`look` is a module's function, or a partial of one: it is sent to another process.

    `needs`: names of checks without which this one has nothing to look at.
    """

    name: str
    look: Callable[[], Iterator[Finding | Waiting]]
    limit_s: float
    needs: tuple[str, ...] = ()
    shows_progress: bool = False  # by itself, on standard error


def run(check: Check, tick: Callable[[float, str], None]) -> Iterator[Finding]:
    """The findings as they come; `tick` is told every 0.1 s how long it has taken, and what it waits for."""
    context = multiprocessing.get_context("spawn")  # not fork: torch and llama.cpp have threads
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(check, writer), daemon=True)
    process.start()
    writer.close()
    began = time.monotonic()
    waits_for = ""
    try:
        while True:
            took_s = time.monotonic() - began
            if reader.poll(TICK_S):
                finding: Finding | Waiting | None = reader.recv()
                if finding is None:
                    process.join(END_S)
                    return
                if isinstance(finding, Waiting):
                    waits_for = finding.for_what
                else:
                    yield finding
            elif took_s > check.limit_s:
                yield failed(
                    f"no answer within {check.limit_s:g} s: the machine or what is asked is stuck or too slow; "
                    "see its log."
                )
                return
            tick(took_s, waits_for)
    except EOFError:
        process.join(END_S)
        yield failed(f"the check crashed ({_ending(process.exitcode)}): a library or its file is damaged.")
    finally:
        process.kill()
        process.join()
        reader.close()


def _work(check: Check, results: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which kills this
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


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
