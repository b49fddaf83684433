"""A day of a fleet, with simpy: turns ask, streams run and end, instances start and stop.

The clock ticks; in each tick all turns that begin, and all streams that end, are drawn at once (a multinomial each), so
that a hundred thousand conversations cost what a hundred do. What the model leaves out: streams are spread evenly over
the instances (least connections), all of them run at the pace of the mean, and a stopped instance's streams go on
elsewhere.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from benchmarks.fleet.tiers import SPREAD_AT, Design, Scaling
from benchmarks.fleet.traffic import Traffic
from orpheus.bookings import IN_THE_END, LATEST_S, SLACK

TRIES = 3  # OpenAI's SDK repeats a refused request twice, when it is told to
DRAIN_S = 20.0  # a stopped instance finishes its streams
Events = Generator[simpy.Event, Any, None]


class Wheel:
    """How many things happen in which later tick."""

    def __init__(self, shares: NDArray[np.float64], chance: np.random.Generator, offset: int = 0) -> None:
        """`shares[i]` of all happen i + `offset` ticks later; more are possible by `later`."""
        self._shares, self._chance = shares, chance
        self._due = np.zeros(len(shares) + offset + 1, np.int64)
        self._at = 0

    def add(self, count: int, later: int = 0) -> None:
        """Draw when each of `count` things happens, `later` ticks later than the distribution says."""
        if not count:
            return
        drawn = self._chance.multinomial(count, self._shares)
        self._put(drawn, min(later, len(self._due) - len(drawn) - 1))

    def fill(self, count: int) -> None:
        """`count` things that have begun long ago, one after another: when each of them happens next."""
        left = np.maximum(0, 1 - self._shares.cumsum())
        self._put(self._chance.multinomial(count, left / left.sum()), 1)

    def _put(self, drawn: NDArray[np.int64], later: int) -> None:
        begin = (self._at + later) % len(self._due)
        room = len(self._due) - begin
        self._due[begin : begin + len(drawn)] += drawn[:room]
        self._due[: max(0, len(drawn) - room)] += drawn[room:]

    def turn(self) -> int:
        """On to the next tick: how many happen in it."""
        self._at = (self._at + 1) % len(self._due)
        count = int(self._due[self._at])
        self._due[self._at] = 0
        return count


@dataclass
class Pool:
    """The instances of one tier."""

    scaling: Scaling
    wanted_each: float  # streams of an instance that the scaling aims at
    ready: int
    starting: int = 0
    draining: int = 0
    bill_s: float = 0.0
    most: int = 0

    @property
    def paid(self) -> int:
        return self.ready + self.starting + self.draining


@dataclass
class Report:
    """What came out."""

    turns: int = 0
    answers: Counter[tuple[float, float]] = field(
        default_factory=Counter
    )  # waited, first byte's median; seconds
    told_to_come_back: int = 0  # turns refused at least once
    given_up: int = 0  # turns refused TRIES times
    speech_s: float = 0.0
    took_s: float = 0.0
    llama_s: float = 0.0  # of instances, paid
    speech_tier_s: float = 0.0
    most_llamas: int = 0
    most_speeches: int = 0
    usd: float = 0.0
    # Every minute: when, streams, tier 1s that are ready.
    series: list[tuple[float, int, int]] = field(default_factory=list)

    def first_audio_s(self, share: float, spread: NDArray[np.float64]) -> float:
        """A quantile, of the turns that were answered."""
        if not self.answers:
            return math.nan
        waited, median = np.array(list(self.answers)).T
        spread = np.interp(np.arange(0.0025, 1, 0.005), SPREAD_AT, spread)
        values = (waited[:, None] + median[:, None] * spread[None, :]).ravel()
        order = values.argsort()
        passed = np.repeat(list(self.answers.values()), len(spread))[order].cumsum()
        return float(values[order][np.searchsorted(passed, share * passed[-1])])

    @property
    def refused_share(self) -> float:
        return self.told_to_come_back / max(1, self.turns)


class Simulation:
    """One fleet, and those who talk to it."""

    def __init__(
        self,
        traffic: Traffic,
        design: Design,
        *,
        begins_s: float = 0.0,
        tick_s: float = 1.0,
        tries: int = TRIES,
        seed: int = 1,
    ) -> None:
        self.report = Report()
        self._traffic, self._design, self._tick_s, self._tries = traffic, design, tick_s, tries
        self._begins_s = begins_s
        self._chance = np.random.default_rng(seed)
        self._env = simpy.Environment()
        reply, human = traffic.reply.shares(tick_s), traffic.human.shares(tick_s)
        # A stream ends when its speech is made; all of them advance together, at the speed of their number.
        self._streams = Wheel(reply, self._chance)
        self._advance = 0.0
        self._asking = Wheel(human, self._chance)
        self._playing = Wheel(np.convolve(reply, human), self._chance, offset=math.ceil(LATEST_S / tick_s))
        self._again: list[
            tuple[float, int, int, float]
        ] = []  # a heap: at, how many, which try, asked first at
        self._queue: deque[tuple[int, float]] = deque()  # how many wait in tier 1, asked first at
        self._active = self._waiting = 0
        self._booked_s = 0.0
        at_once = traffic.at_once * (1 if math.isinf(traffic.turns) else traffic.share(begins_s))
        spoken = traffic.reply.mean_s / (traffic.reply.mean_s + traffic.human.mean_s)
        self._playing.fill(round(at_once))
        streams = design.llama.streams
        target, least = design.target, design.scaling.least
        self._llama = Pool(design.scaling, target * streams, 0)
        self._speech = Pool(design.speech_scaling, target * design.speech_places, 0)
        for pool in (self._llama, self._speech):
            pool.ready = min(max(least, math.ceil(at_once * spoken / pool.wanted_each)), design.scaling.most)

    def run(self, seconds: float, settle_s: float = 0.0) -> Report:
        """Simulate so long, after `settle_s` that count for nothing."""
        self._env.process(self._clock(settle_s))
        for pool in (self._llama, self._speech):
            self._env.process(self._scale(pool))
        self._env.run(settle_s + seconds)
        report, design = self.report, self._design
        report.took_s = seconds
        report.llama_s, report.speech_tier_s = self._llama.bill_s, self._speech.bill_s
        report.most_llamas, report.most_speeches = self._llama.most, self._speech.most
        paid_usd = report.llama_s * design.llama_usd + report.speech_tier_s * design.speech_usd
        report.usd = paid_usd / seconds  # an hour
        return report

    def _clock(self, settle_s: float) -> Events:
        tick_s, noted_s = self._tick_s, -math.inf
        settled = False
        while True:
            now_s = self._env.now
            if not settled and now_s >= settle_s:
                settled, self.report = True, Report()
                for pool in (self._llama, self._speech):
                    pool.bill_s, pool.most = 0.0, pool.paid
            self._end_streams()
            self._begin_turns()
            for pool in (self._llama, self._speech):
                pool.bill_s += pool.paid * tick_s
                pool.most = max(pool.most, pool.paid)
            if now_s - noted_s >= 60:
                noted_s = now_s
                self.report.series.append((now_s, self._active, self._llama.ready))
            yield self._env.timeout(tick_s)

    @property
    def _places(self) -> int:
        return self._llama.ready * self._design.llama.streams

    @property
    def _rows(self) -> float:
        """Streams of one tier 1."""
        return max(1.0, self._active / max(1, self._llama.ready))

    def _end_streams(self) -> None:
        # A tick's worth of speech is a turn of the wheel.
        self._advance += self._design.llama.fast(self._rows)
        while self._advance >= 1:
            self._advance -= 1
            self._active -= self._streams.turn()
        while self._queue and self._active < self._places:
            count, asked_s = self._queue.popleft()
            begun = min(count, self._places - self._active)
            if begun < count:
                self._queue.appendleft((count - begun, asked_s))
            self._waiting -= begun
            self._begin(begun, asked_s)

    def _begin_turns(self) -> None:
        now_s, chance = self._env.now, self._chance
        came = self._traffic.arrivals_a_second(self._begins_s + now_s) * self._tick_s
        self._asking.add(int(chance.poisson(came)))
        asked = self._asking.turn() + self._playing.turn()
        self.report.turns += asked
        groups = [(asked, 1, now_s)] if asked else []
        while self._again and self._again[0][0] <= now_s:
            _, count, attempt, asked_s = heapq.heappop(self._again)
            groups.append((count, attempt, asked_s))
        for index in chance.permutation(len(groups)) if len(groups) > 1 else range(len(groups)):
            self._admit(*groups[index])

    def _admit(self, count: int, attempt: int, asked_s: float) -> None:
        design = self._design
        begun = max(0, min(count, self._places - self._active, self._speech_room())) if not self._queue else 0
        self._begin(begun, asked_s)
        room = self._llama.ready * design.llama.waiting - self._waiting
        queued = max(0, min(count - begun, room, self._speech_room()))
        if queued:
            self._queue.append((queued, asked_s))
            self._waiting += queued
        if refused := count - begun - queued:
            self._refuse(refused, attempt, asked_s)

    def _speech_room(self) -> int:
        return self._speech.ready * self._design.speech_places - self._active - self._waiting

    def _begin(self, count: int, asked_s: float) -> None:
        """Streams start."""
        if not count:
            return
        self._active += count
        first_s, waited_s = self._design.llama.first(self._rows), self._env.now - asked_s
        self.report.answers[round(waited_s, 3), round(first_s, 3)] += count
        self.report.speech_s += count * self._traffic.reply.mean_s
        self._streams.add(count)
        self._playing.add(self._staying(count), round(first_s / self._tick_s))

    def _staying(self, count: int) -> int:
        """Of `count` conversations that had a turn, how many will have another."""
        return int(self._chance.binomial(count, 1 - 1 / self._traffic.turns))

    def _refuse(self, count: int, attempt: int, asked_s: float) -> None:
        """Tell each a time of its own, as orpheus/bookings.py does."""
        now_s, report = self._env.now, self.report
        report.told_to_come_back += count if attempt == 1 else 0
        if attempt == self._tries:
            report.given_up += count
            self._asking.add(self._staying(count))  # the turn is lost, the conversation goes on
            return
        usual_s = self._traffic.reply.mean_s / self._design.llama.fast(self._rows) * IN_THE_END
        pace_s = usual_s / max(1, self._places) * SLACK
        first_s = max(now_s + pace_s / 2, self._booked_s)
        told = min(count, max(0, int((now_s + LATEST_S - first_s) / pace_s)))
        self._booked_s = first_s + told * pace_s
        at_s = first_s + pace_s * np.arange(1, told + 1)
        beyond = now_s + self._chance.uniform(LATEST_S / 2, LATEST_S, count - told)
        ticks = np.ceil(np.concatenate((at_s, beyond)) / self._tick_s).astype(int)
        for tick, times in zip(*np.unique(ticks, return_counts=True), strict=True):
            heapq.heappush(self._again, (float(tick) * self._tick_s, int(times), attempt + 1, asked_s))

    def _scale(self, pool: Pool) -> Events:
        scaling, env = pool.scaling, self._env
        wishes = deque([(env.now, pool.ready)])
        grown_s = shrunk_s = -math.inf
        while True:
            load = self._active + (0 if scaling.saturates else self._waiting)
            ratio = load / (max(1, pool.ready) * pool.wanted_each)
            wish = pool.ready if abs(ratio - 1) <= scaling.tolerance else math.ceil(load / pool.wanted_each)
            wish = min(max(scaling.least, wish + scaling.spare), scaling.most)
            wishes.append((env.now, wish))
            while wishes[0][0] < env.now - scaling.window_s:
                wishes.popleft()
            have = pool.ready + pool.starting
            if wish > have and env.now - grown_s >= scaling.grow_every_s:
                most = have * (1 + scaling.grow)
                more = min(wish, math.ceil(most) if math.isfinite(most) else wish) - have
                pool.starting += more
                grown_s = env.now
                env.process(self._start(pool, more))
            spare = have - max(wanted for _, wanted in wishes)
            if spare > 0 and not pool.starting and env.now - shrunk_s >= scaling.shrink_every_s:
                fewer = min(spare, max(1, int(scaling.shrink * have)))
                pool.ready -= fewer
                pool.draining += fewer
                shrunk_s = env.now
                env.process(self._drain(pool, fewer))
            yield env.timeout(scaling.every_s)

    def _start(self, pool: Pool, count: int) -> Events:
        yield self._env.timeout(pool.scaling.start_s)
        pool.starting -= count
        pool.ready += count

    def _drain(self, pool: Pool, count: int) -> Events:
        yield self._env.timeout(DRAIN_S)
        pool.draining -= count
