"""Everybody at once for some time: listeners, those who leave, and attackers. Memory and descriptors stay flat."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

from benchmarks.faults import bodies, hostile, wire
from benchmarks.faults.clients import CLOSE, SENTENCE, SESSION, SOCKETS, spoken_on
from benchmarks.faults.hostile import SPEECH, answer_of, asked, opened, post
from benchmarks.faults.stage import KEYED, Case, Stage

PEOPLE = 6
WATCH_S = 0.5
GROWTH_MB = 32.0  # most between the second and the last fifth of the time, of both tiers
SPREAD = 20  # descriptors by which one fifth may differ from another: connections that are open just then
FREE_S = 30.0
REQUESTS = [sent for sent, _ in wire.wrong_requests(SPEECH, KEYED).values()]
HANDSHAKES = [sent for sent, _ in wire.wrong_handshakes(SESSION, KEYED).values()]
FRAMES = [sent for sent, _ in wire.WRONG_FRAMES.values()]


def cases(seconds: float) -> Iterator[Case]:
    def run(stage: Stage) -> str | None:
        return _churn(stage, seconds)

    yield Case("churn", f"{PEOPLE} clients for {seconds:g} s", run, alone=True, single=False, free_s=FREE_S)


def _churn(stage: Stage, seconds: float) -> str | None:
    stop = threading.Event()
    counts = [0] * PEOPLE
    problems: list[str] = []

    def person(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            try:
                _visit(stage, chance)
            except OSError:
                pass  # it was dropped, as it may be
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}"[:200])
            counts[number] += 1

    people = [threading.Thread(target=person, args=(number,)) for number in range(PEOPLE)]
    for one in people:
        one.start()
    memory_mb: dict[str, list[float]] = {tier.name: [] for tier in stage.tiers}
    descriptors: list[int] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        time.sleep(WATCH_S)
        for tier in stage.tiers:
            memory_mb[tier.name].append(tier.memory_mb())
        descriptors.append(sum(tier.descriptors().total() for tier in stage.tiers))
    stop.set()
    for one in people:
        one.join()
    print(f"     {sum(counts)} visits; medians of each fifth of the time:")
    for name, values in memory_mb.items():
        fifths = _fifths(values)
        stage.grown_mb += max(0.0, fifths[-1] - fifths[1])
        print(f"     memory of {name} in MB", *(f"{value:.0f}" for value in fifths))
    held = _fifths(descriptors)
    print("     descriptors", *(f"{value:.0f}" for value in held), f"at most {max(descriptors)}")
    if problems:
        return f"{len(problems)} visits went wrong: {problems[0]}"
    if stage.grown_mb > GROWTH_MB:
        return f"memory grew by {stage.grown_mb:.0f} MB"
    if held[-1] > held[1] + SPREAD:
        return f"descriptors grew from {held[1]:.0f} to {held[-1]:.0f}"
    return None


def _fifths(values: Sequence[float]) -> list[float]:
    """The median of each fifth."""
    ends = [len(values) * number // 5 for number in range(6)]
    return [statistics.median(values[start:end] or values) for start, end in pairwise(ends)]


def _visit(stage: Stage, chance: random.Random) -> None:
    """One client, of any kind."""
    text = SENTENCE * chance.randrange(1, 4)
    match chance.randrange(10):
        case 0 | 1:
            fields = {
                "input": text,
                "response_format": chance.choice(["pcm", "mp3", "wav", "flac", "opus", "aac"]),
            }
            status = asked(stage.url, post(fields, headers=[*KEYED, CLOSE]), 60).status
            if status not in (200, 429):
                raise ValueError(f"speech was answered {status}")
        case 2:
            _leave(stage, post({"input": text * 4}, headers=KEYED), None, chance)
        case 3 | 4:
            path, said = chance.choice(list(spoken_on(text).items()))
            _leave(stage, said, path, chance)
        case 5:
            with contextlib.closing(
                hostile.socket_of(stage.url, chance.choice(SOCKETS), KEYED)
            ) as connection:
                connection.sendall(chance.choice(FRAMES))
                answer_of(connection, 5)
        case 6:
            asked(stage.url, chance.choice(REQUESTS), 5)
        case 7:
            body = chance.choice(list(bodies.SPEECH_BODIES.values()))
            asked(stage.url, post(body, headers=[*KEYED, CLOSE]), 5)
        case 8:
            asked(stage.url, chance.choice(HANDSHAKES), 5)
        case _:
            name = chance.choice([name for name in hostile.FLOODS if name != "new_connections"])
            with hostile.flooded(stage.url, hostile.FLOODS[name], 1, KEYED):
                time.sleep(chance.random())


def _leave(stage: Stage, sent: bytes, path: str | None, chance: random.Random) -> None:
    connection = opened(stage.url, timeout_s=30)
    try:
        if path is not None:
            hostile.shake(connection, path, KEYED)
        connection.sendall(sent)
        for _ in range(chance.randrange(5)):
            connection.recv(8192)
    finally:
        (hostile.reset if chance.random() < 0.5 else type(connection).close)(connection)
