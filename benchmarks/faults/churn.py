"""Everybody at once for some time: listeners, those who leave, and attackers. Memory and descriptors stay flat."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Iterator

from benchmarks.faults import bodies, hostile, wire
from benchmarks.faults.clients import SENTENCE, SESSION, SOCKETS, spoken_on
from benchmarks.faults.hostile import SPEECH, answer_of, asked, opened, post
from benchmarks.faults.stage import KEYED, Case, Stage

PEOPLE = 6
WATCH_S = 0.5
GROWTH_MB = 48.0  # most between the first and the last fifth of the time, of all tiers
SPREAD = (
    40  # most descriptors by which a late fifth may exceed an early one: connections that are open just then
)
FREE_S = 30.0


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
    memory_mb: list[float] = []
    descriptors: list[int] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        time.sleep(WATCH_S)
        memory_mb.append(sum(tier.memory_mb() for tier in stage.tiers))
        descriptors.append(sum(tier.descriptors().total() for tier in stage.tiers))
    stop.set()
    for one in people:
        one.join()
    fifth = max(1, len(memory_mb) // 5)
    early, late = slice(fifth, 2 * fifth), slice(-fifth, None)
    stage.grown_mb = max(0.0, statistics.median(memory_mb[late]) - statistics.median(memory_mb[early]))
    print(
        f"     {sum(counts)} visits; memory {statistics.median(memory_mb[early]):.0f} MB, at the end "
        f"{statistics.median(memory_mb[late]):.0f}; descriptors {statistics.median(descriptors[early]):.0f}, at the end "
        f"{statistics.median(descriptors[late]):.0f}, at most {max(descriptors)}"
    )
    if problems:
        return f"{len(problems)} visits went wrong: {problems[0]}"
    if stage.grown_mb > GROWTH_MB:
        return f"memory grew by {stage.grown_mb:.0f} MB"
    if statistics.median(descriptors[late]) > statistics.median(descriptors[early]) + SPREAD:
        return f"descriptors grew from {descriptors[early]} to {descriptors[late]}"
    return None


def _visit(stage: Stage, chance: random.Random) -> None:
    """One client, of any kind."""
    text = SENTENCE * chance.randrange(1, 4)
    match chance.randrange(10):
        case 0 | 1:
            fields = {
                "input": text,
                "response_format": chance.choice(["pcm", "mp3", "wav", "flac", "opus", "aac"]),
            }
            status = asked(stage.url, post(fields, headers=[*KEYED, ("Connection", "close")]), 60).status
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
                connection.sendall(chance.choice(list(wire.WRONG_FRAMES.values()))[0])
                answer_of(connection, 5)
        case 6:
            sent, _ = chance.choice(list(wire.wrong_requests(SPEECH, KEYED).values()))
            asked(stage.url, sent, 5)
        case 7:
            body = chance.choice(list(bodies.SPEECH_BODIES.values()))
            asked(stage.url, post(body, headers=KEYED), 5)
        case 8:
            sent, _ = chance.choice(list(wire.wrong_handshakes(SESSION, KEYED).values()))
            asked(stage.url, sent, 5)
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
