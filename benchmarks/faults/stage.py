"""Processes under attack, and what is measured of them: places, connections, descriptors, memory, how soon they answer.

A case runs on a Stage and says what did not hold. One that is `alone` is also held to LIMIT_MS: `/live` is asked every
PROBE_S from another process, a new connection each time, and the slowest answer during the attack counts as the time
for which the event loop was blocked. The machine's own noise is told apart in two ways. The slowest answer in the
BEFORE_S before the attack is added to the limit, and an attack over it is made again, up to TRIES times in all: what
an attack causes comes each time, so the best try counts. Both figures are printed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.faults import hostile
from orpheus.http.process import free_port
from orpheus.ops.bench.listening import read_metrics
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.settings import EMBEDDED, PREFIX

LIMIT_MS = 100.0  # longest answer of /live while one client does its worst
PROBE_S = 0.02
BEFORE_S = 0.3
AFTER_S = 0.1
TRIES = 3
FREE_S = 5.0  # from the end of an attack until nothing of it is left, unless a case says otherwise
IDLE_S = 7.0  # until the tiers have closed the connections between them, which they keep for 5 s
GONE_S = 0.5  # until a tier has noticed that a client has left
PEAK_MB = 96.0  # most that one client may add to a process
START_S = 120.0
STOP_S = 6.0
ACTIVE = ("orpheus_speech_active", *(f"orpheus_streams_{name}" for name in ("active", "waiting", "paused")))
KEY, PASSWORD, PROXY_SECRET = "right-key-4711", "open-sesame-4712", "ws-secret-4713"
SECRETS = (KEY, PASSWORD, PROXY_SECRET)
KEYED = (("x-api-key", KEY),)


@dataclass(frozen=True)
class Case:
    """`run` returns what did not hold, or nothing; what it raises did not hold either."""

    kind: str
    name: str
    run: Callable[[Stage], str | None]
    alone: bool = False
    single: bool = True  # one client, which may not keep /live waiting
    free_s: float = FREE_S  # until places and connections are free again


@dataclass
class Outcome:
    kind: str
    name: str
    problem: str | None
    seconds: float
    blocked_ms: float | None = None
    before_ms: float = 0.0
    grown_mb: float = 0.0

    def line(self) -> str:
        blocked = ""
        if self.blocked_ms is not None:
            blocked = f"{self.blocked_ms:5.0f} ({self.before_ms:.0f}) ms {self.grown_mb:+4.0f} MB"
        state = "ok  " if self.problem is None else "FAIL"
        told = "" if self.problem is None else f"   {self.problem}"
        return f"{state} {self.kind + ': ' + self.name:72} {blocked:>24} {self.seconds:6.1f} s{told}"


@dataclass
class Results:
    """Prints each case as it ends."""

    outcomes: list[Outcome] = field(default_factory=list)
    places_leaked: int = 0
    descriptors_leaked: int = 0
    rss_growth_mb: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes.append(outcome)
            print(outcome.line(), flush=True)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.problem is not None]

    def summary(self) -> dict[str, float]:
        blocked_ms = [outcome.blocked_ms for outcome in self.outcomes if outcome.blocked_ms is not None]
        return {
            "cases": len(self.outcomes),
            "passed": len(self.outcomes) - len(self.failed),
            "loop_blocked_ms_max": round(max(blocked_ms, default=0.0), 1),
            "places_leaked": self.places_leaked,
            "descriptors_leaked": self.descriptors_leaked,
            "rss_growth_mb": round(self.rss_growth_mb, 1),
        }


def environment(**settings: str) -> dict[str, str]:
    """What a child of ours gets: the embedded voice, and these settings."""
    return {
        f"{PREFIX}MODEL": EMBEDDED,
        f"{PREFIX}CODEC": EMBEDDED,
        "PYTHONUNBUFFERED": "1",
        **{PREFIX + name.upper(): value for name, value in settings.items()},
    }


class Tier:
    """A running tier, with its output captured."""

    def __init__(
        self,
        started: contextlib.ExitStack,
        name: str,
        settings: Mapping[str, str],
        descriptors: int | None = None,
    ) -> None:
        """It is stopped with `started`. `descriptors` is what `ulimit -n` says in its process."""
        self.name = name
        self.port = free_port()
        port = {"speech": "port", "llama": "llama_port"}[name]
        self.child = ChildServer(
            name,
            [sys.executable, "-P", "-m", "orpheus", name, "--supervised"],
            f"http://127.0.0.1:{self.port}",
            environment=environment(**{port: str(self.port)}, **settings),
            capture=True,
        )
        started.callback(self.child.stop, STOP_S)
        if descriptors is not None:  # long before it looks
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
        self.url = self.child.url
        self.probe_path = "/live" if name == "speech" else "/health"

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def descriptors(self) -> Counter[str]:
        """How many it has open of each kind."""
        found: Counter[str] = Counter()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed just now
                found[os.readlink(link).partition(":[")[0]] += 1
        return found

    def memory_mb(self, which: str = "VmRSS") -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(which + ":"):
                return int(line.split()[1]) / 1024
        raise ProcessLookupError(f"{self.name} has ended")

    def forget_peak(self) -> None:
        """Let VmHWM start anew, where the system allows it."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def clients(self) -> list[int]:
        """The ports of those whose connections it holds, whether they are still there or not."""
        ports = []
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            is_held = state in ("01", "08") and rest[5] != "0"  # ESTABLISHED, CLOSE_WAIT; of a process
            if is_held and int(local.rpartition(":")[2], 16) == self.port:
                ports.append(int(remote.rpartition(":")[2], 16))
        return ports


class Prober:
    """Asks one route for ever, from a process of its own."""

    def __init__(self, url: str, path: str) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._answers, theirs = spawning.Pipe(duplex=False)
        self._process = spawning.Process(target=_ask_for_ever, args=(url, path, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._seen: list[tuple[float, float, bool]] = []
        self._answers.recv()

    def between(self, from_s: float, to_s: float) -> tuple[float, int]:
        """The slowest answer, in ms, to what was asked in this time, and how many were none. Waits for the last."""
        while not self._seen or self._seen[-1][0] <= to_s:
            self._seen.append(self._answers.recv())
        asked = [
            (took_s, is_ok) for at_s, took_s, is_ok in self._seen if at_s + took_s >= from_s and at_s <= to_s
        ]
        self._seen = self._seen[-1:]
        return max((took_s for took_s, _ in asked), default=0.0) * 1000, sum(not is_ok for _, is_ok in asked)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._answers.close()


def _ask_for_ever(url: str, path: str, answers: multiprocessing.connection.Connection) -> None:
    sent = hostile.head("GET", path, [("Connection", "close")])
    while True:
        at_s = time.monotonic()
        try:
            status = hostile.asked(url, sent, 30).status
        except OSError:
            status = 0
        took_s = time.monotonic() - at_s
        try:
            answers.send((at_s, took_s, status == 200))
        except OSError:
            return
        time.sleep(max(0.0, PROBE_S - took_s))


@dataclass
class Stage:
    """Ready tiers, the first of which is attacked."""

    tiers: Sequence[Tier]
    keys: hostile.Headers = ()
    seconds: float = 2.0  # of a flood
    grown_mb: float = 0.0  # by churn

    @property
    def tier(self) -> Tier:
        return self.tiers[0]

    @property
    def url(self) -> str:
        return self.tier.url

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, headers=dict(self.keys), trust_env=False, timeout=60) as client:
            yield client

    def output(self) -> str:
        return "".join(tier.child.output() for tier in self.tiers)

    def places(self) -> int:
        """Held, in all tiers."""
        asks = hostile.head("GET", "/metrics", [("Connection", "close")])
        pages = [hostile.asked(tier.url, asks, 30).data.decode() for tier in self.tiers]
        return int(sum(read_metrics(page).get(name, 0.0) for page in pages for name in ACTIVE))

    def left(self, within_s: float) -> str | None:
        """What is still held of attacks that are over. A prober's connection is there now and then, not always."""
        until_s = time.monotonic() + within_s
        while True:
            places, held = self.places(), len(self.tier.clients())
            if places == held == 0:
                return None
            if time.monotonic() > until_s:
                return f"{places} places and {held} connections are still held after {within_s:g} s"
            time.sleep(0.05)


@dataclass
class Group:
    """Cases for one stage."""

    stage: Stage
    cases: Sequence[Case]
    at_once: int = 32  # of those that are not alone
    _descriptors: list[Counter[str]] = field(default_factory=list)

    @property
    def together(self) -> list[Case]:
        return [case for case in self.cases if not case.alone]

    @property
    def alone(self) -> list[Case]:
        return [case for case in self.cases if case.alone]

    def note(self) -> None:
        """Remember how many descriptors its tiers have when nobody uses them."""
        _speak(self.stage)
        self._descriptors = [tier.descriptors() for tier in self.stage.tiers]

    def check(self, results: Results) -> None:
        """See that nothing is left of any case. What is only not closed yet goes with the next requests."""
        for _ in range(TRIES):
            _speak(self.stage)
            more = [
                tier.descriptors() - before
                for tier, before in zip(self.stage.tiers, self._descriptors, strict=True)
            ]
            if not any(more):
                break
        for tier, kinds in zip(self.stage.tiers, more, strict=True):
            results.descriptors_leaked += kinds.total()
            problem = f"more than before: {dict(kinds)}" if kinds else None
            results.add(
                Outcome("leaks", f"descriptors of {tier.name} after {self.cases[0].kind}", problem, 0.0)
            )
        results.places_leaked += self.stage.places()
        results.rss_growth_mb = max(results.rss_growth_mb, self.stage.grown_mb)

    def run_together(self, results: Results) -> None:
        cases = self.together
        with ThreadPoolExecutor(self.at_once) as pool:
            for outcome in pool.map(lambda case: _tried(self.stage, case), cases):
                results.add(outcome)
        if cases and self.stage.tiers:
            started_s = time.monotonic()
            left = self.stage.left(max(case.free_s for case in cases))
            name = f"places and connections after {cases[0].kind}"
            results.add(Outcome("leaks", name, left, time.monotonic() - started_s))

    def run_alone(self, results: Results) -> None:
        if not self.alone:
            return
        prober = Prober(self.stage.url, self.stage.tier.probe_path)
        try:
            for case in self.alone:
                results.add(_measured(self.stage, case, prober))
        finally:
            prober.close()


def perform(groups: Sequence[Group], results: Results) -> None:
    """Run first what needs no quiet, all groups at once; then the cases that are alone, one after the other."""
    wait_until_healthy([tier.child for group in groups for tier in group.stage.tiers], START_S)
    staged = [group for group in groups if group.stage.tiers]
    for group in staged:
        group.note()
    with ThreadPoolExecutor(max(1, len(groups))) as pool:
        list(pool.map(lambda group: group.run_together(results), groups))
    for group in groups:
        group.run_alone(results)
    time.sleep(IDLE_S)
    for group in staged:
        group.check(results)


def _speak(stage: Stage) -> None:
    """As anybody would: opens what a tier keeps, and lets tier 2 look through its connections to tier 1."""
    with stage.client() as client:
        client.post("/v1/audio/speech" if stage.tier.name == "speech" else "/v1/completions", json=_SHORT)
    time.sleep(GONE_S)


_SHORT = {"input": "Hello.", "prompt": "tara: Hello.", "response_format": "pcm", "max_tokens": 70}


def _tried(stage: Stage, case: Case) -> Outcome:
    started_s = time.monotonic()
    try:
        problem = case.run(stage)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"[:300]
    return Outcome(case.kind, case.name, problem, time.monotonic() - started_s)


def _measured(stage: Stage, case: Case, prober: Prober) -> Outcome:
    best: Outcome | None = None
    for _ in range(TRIES):
        outcome = _attacked(stage, case, prober)
        if outcome.problem is not None:
            return outcome
        if not case.single:
            outcome.name += f" (/live waited {outcome.blocked_ms:.0f} ms at most)"
            outcome.blocked_ms = None
            return outcome
        if best is None or (outcome.blocked_ms or 0.0) < (best.blocked_ms or 0.0):
            best = outcome
        if (best.blocked_ms or 0.0) <= LIMIT_MS + best.before_ms:
            return best
    assert best is not None
    best.problem = f"/live waited {best.blocked_ms:.0f} ms in the best of {TRIES} tries"
    return best


def _attacked(stage: Stage, case: Case, prober: Prober) -> Outcome:
    time.sleep(BEFORE_S)
    began_s = time.monotonic()
    before_ms, _ = prober.between(began_s - BEFORE_S, began_s)
    memory_mb = stage.tier.memory_mb()
    stage.tier.forget_peak()
    outcome = _tried(stage, case)
    time.sleep(AFTER_S)
    outcome.blocked_ms, failed = prober.between(began_s, time.monotonic())
    outcome.before_ms = before_ms
    outcome.grown_mb = stage.tier.memory_mb("VmHWM") - memory_mb
    if outcome.problem is None and failed:
        outcome.problem = f"/live was refused {failed} times"
    if outcome.problem is None and case.single and outcome.grown_mb > PEAK_MB:
        outcome.problem = f"{outcome.grown_mb:.0f} MB more memory"
    outcome.problem = outcome.problem or stage.left(case.free_s)
    return outcome
