"""The simulation against the real pair: a few conversations on this machine, with so few streams that some are refused."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.conversation import REPLIES
from benchmarks.fleet.simulation import TRIES, Report, Simulation
from benchmarks.fleet.tiers import SPREAD_AT, Design, Instance, Scaling
from benchmarks.fleet.traffic import AGENT_S, HUMAN_MEDIAN_S, HUMAN_SIGMA, Duration, Traffic
from orpheus.http.responses import retry_after_s
from orpheus.llama.engine_config import EngineConfig
from orpheus.ops.bench.listening import RATE, client, quantile
from orpheus.ops.serve import Pair, running_pair
from orpheus.settings import EMBEDDED, Settings, load_settings

STREAMS = 2  # of tier 1: few, so that some are refused
MANY = 16  # while service times are measured: nobody waits
LISTENERS = (1, 2, 3, 4)  # each of these at once, without a pause
SAMPLE_S = 0.04
PACE_S = 5.0
LOAD = 0.6  # of what the machine makes, asked for by all conversations: a slower minute is no jam
LEVEL_S, RUN_S = 7.0, 100.0
SETTLE_S = 15.0  # of the run, not counted
TICK_S = 0.02
HUMAN = Duration.lognormal(HUMAN_MEDIAN_S, HUMAN_SIGMA, AGENT_S)
# Stated error, by three runs on quiet machines: of first audio by quantile, of which the later are a few turns alone, and
# of the share refused.
PERCENT, POINTS = {"p50": 20, "p90": 50, "p99": 70}, 3
RUNS = 40  # of the simulation: of as many turns as the real one, so that chance shows
ALONE = Scaling("one", every_s=3600, start_s=0, window_s=0, least=1, most=1)


@dataclass
class Heard:
    """Answers that were listened to."""

    first_s: list[float] = field(default_factory=list)  # from the first request of a turn to its first byte
    audio_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)  # of the request that was served
    refused: int = 0  # turns, at least once
    given_up: int = 0
    turns: int = 0

    async def ask(self, asking: httpx.AsyncClient, text: str, seed: int) -> float:
        """One turn, repeated as OpenAI's SDK does it. Returns how long its speech plays on, in seconds."""
        asked_s = time.monotonic()
        body = {"input": text, "voice": "tara", "response_format": "pcm", "seed": seed, "sample_rate": RATE}
        self.turns += 1
        for attempt in range(TRIES):
            began_s = time.monotonic()
            async with asking.stream("POST", "/v1/audio/speech", json=body) as response:
                if response.status_code == 429:
                    self.refused += attempt == 0
                    wait_s = retry_after_s(response.headers)
                else:
                    response.raise_for_status()
                    size, first_s = 0, 0.0
                    async for chunk in response.aiter_raw():
                        first_s = first_s or time.monotonic()
                        size += len(chunk)
                    ended_s, audio_s = time.monotonic(), size / 2 / RATE
                    self.first_s.append(first_s - asked_s)
                    self.audio_s.append(audio_s)
                    self.wall_s.append(ended_s - began_s)
                    return max(0.0, first_s + audio_s - ended_s)
            if attempt + 1 < TRIES:
                await asyncio.sleep(wait_s)
        self.given_up += 1
        return 0.0


async def level(pair: Pair, listeners: int, seconds: float) -> Level:
    """So many listeners, each asking again at once."""
    heard, began_s = Heard(), time.monotonic()
    rows: list[int] = []

    async def listener(number: int) -> None:
        turn = number * 3
        await asyncio.sleep(number * 0.1)
        while time.monotonic() < began_s + seconds:
            await heard.ask(asking, REPLIES[turn % len(REPLIES)], turn)
            turn += 1

    async def watch() -> None:
        while True:
            load = (await looking.get("/health")).json()
            rows.append(load["active"] + load["waiting"])
            await asyncio.sleep(SAMPLE_S)

    async with client(pair.url) as asking, client(pair.llama_url) as looking:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(listener(number) for number in range(listeners)))
        watching.cancel()
    return Level(heard, np.array(rows, float), time.monotonic() - began_s)


async def converse(url: str, people: int, human: Duration, seconds: float) -> Heard:
    """People who listen to an answer as long as it plays, and then speak themselves."""
    heard, began_s = Heard(), time.monotonic()
    ends_s = began_s + SETTLE_S + seconds
    settling = Heard()

    async def person(number: int) -> None:
        chance = random.Random(number)
        await asyncio.sleep(chance.uniform(0, SETTLE_S))
        while (now_s := time.monotonic()) < ends_s:
            counted = heard if now_s - began_s >= SETTLE_S else settling
            plays_s = await counted.ask(asking, chance.choice(REPLIES), chance.randrange(1 << 20))
            await asyncio.sleep(plays_s + float(chance.choice(human.seconds)))

    async with client(url) as asking:
        await asyncio.gather(*(person(number) for number in range(people)))
    return heard


@dataclass
class Level:
    """Listeners who never pause."""

    heard: Heard
    rows: NDArray[np.float64]  # streams of tier 1, looked at again and again
    seconds: float

    @property
    def audio_a_second(self) -> float:
        return sum(self.heard.audio_s) / self.seconds

    @property
    def seen(self) -> float:
        """How many streams a stream runs among, itself included, on average."""
        return float((self.rows**2).sum() / self.rows.sum())

    @property
    def speed(self) -> float:
        """Of a stream: what is made a second, over those who make it."""
        return self.audio_a_second / float(self.rows.mean())


@dataclass
class Measured:
    """The real side."""

    instance: Instance
    reply: Duration
    people: int
    heard: Heard
    pace: float  # of the machine, after the run ÷ before: others may have worked on it


def measure() -> Measured:
    """This machine's service times, and a run of conversations with the pair that has them."""
    settings = load_settings(model=EMBEDDED, codec=EMBEDDED)
    with running_pair(settings, ORPHEUS_STREAMS=str(MANY)) as pair:
        asyncio.run(level(pair, STREAMS, 2.0))  # warm
        levels = [asyncio.run(level(pair, listeners, LEVEL_S)) for listeners in LISTENERS]
    instance, reply = service_times(levels, settings)
    capacity = max(each.audio_a_second for each in levels)
    people = math.ceil(LOAD * capacity * (reply.mean_s + HUMAN.mean_s) / reply.mean_s)
    with running_pair(settings, ORPHEUS_STREAMS=str(STREAMS)) as pair:
        before = asyncio.run(level(pair, STREAMS, PACE_S))
        heard = asyncio.run(converse(pair.url, people, HUMAN, RUN_S))
        after = asyncio.run(level(pair, STREAMS, PACE_S))
    return Measured(instance, reply, people, heard, after.audio_a_second / before.audio_a_second)


def simulate(measured: Measured) -> list[Report]:
    """The same run, RUNS times."""
    traffic = Traffic(measured.people, HUMAN, measured.reply, turns=math.inf)
    design = Design(measured.instance, load_settings().max_requests, ALONE, 1.0)
    return [
        Simulation(traffic, design, tick_s=TICK_S, seed=seed).run(RUN_S, SETTLE_S) for seed in range(RUNS)
    ]


def service_times(levels: list[Level], settings: Settings) -> tuple[Instance, Duration]:
    """Of a tier 1 with STREAMS; and how long answers last."""
    medians = [quantile(each.heard.first_s, 0.5) for each in levels]
    ratios = [np.array(each.heard.first_s) / median for each, median in zip(levels, medians, strict=True)]
    waiting = EngineConfig.from_settings(settings.model_copy(update={"streams": STREAMS}), gpu=False).waiting
    rows, speed = (np.array([getattr(each, name) for each in levels]) for name in ("seen", "speed"))
    instance = Instance(
        STREAMS, waiting, rows, np.array(medians), speed, np.quantile(np.concatenate(ratios), SPREAD_AT)
    )
    return instance, Duration(np.concatenate([each.heard.audio_s for each in levels]))


def show(measured: Measured, simulated: list[Report]) -> dict[str, float]:
    """Print both sides, and return the figures."""
    instance, real = measured.instance, measured.heard
    print(
        f"{instance.streams} streams and {instance.waiting} waiting; answers of {measured.reply.mean_s:.1f} s"
    )
    for rows, first_s, speed in zip(instance.rows, instance.first_s, instance.speed, strict=True):
        print(
            f"  among {rows:.1f}: first byte {first_s * 1000:.0f} ms, {speed:.1f} s of speech a second each"
        )
    print("  first byte ÷ median:", " ".join(f"{ratio:.2f}" for ratio in instance.spread))
    print(f"\n{measured.people} conversations, {real.turns} turns, {RUNS} simulated runs of as long")
    print(f"the machine's pace after the run: {measured.pace:.2f} of that before")
    print("                       the pair   simulated   (its runs, 5 to 95%)     error")
    sides = [
        (
            f"first_audio_ms_p{share * 100:.0f}",
            quantile(real.first_s, share) * 1000,
            [run.first_audio_s(share, instance.spread) * 1000 for run in simulated],
        )
        for share in (0.5, 0.9, 0.99)
    ]
    refused = [100 * run.refused_share for run in simulated]
    sides.append(("refused_percent", 100 * real.refused / real.turns, refused))
    result: dict[str, float] = {"people": measured.people, "turns": real.turns, "given_up": real.given_up}
    result["pace"] = measured.pace
    for name, ours, theirs in sides:
        middle, low, high = (quantile(theirs, share) for share in (0.5, 0.05, 0.95))
        error = middle - ours if name == "refused_percent" else 100 * (middle / ours - 1)
        unit, most = ("points", POINTS) if name == "refused_percent" else ("%", PERCENT[name[-3:]])
        verdict = f"within {most}" if abs(error) <= most else f"MORE than {most}"
        print(
            f"{name:20s} {ours:10.1f} {middle:11.1f}   {low:10.1f} {high:9.1f} {error:+10.1f} {unit}, {verdict}"
        )
        result |= {f"{name}_measured": ours, f"{name}_simulated": middle, f"{name}_error": error}
    return result
