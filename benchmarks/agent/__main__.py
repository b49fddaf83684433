"""How the voice agent does, talked to in real time: how soon it answers, what interrupts it, what it mishears.

    python -m benchmarks.agent [--quick]

`orpheus talk` with the embedded parts is started here and called over `WS /v1/realtime` by callers whose microphone is
always open: questions in the pair's own voices and recordings of people, interruptions, noises, murmurs and the agent's
own echo. Tables, a picture in benchmarks/results/agent.png, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from benchmarks import RESULTS
from benchmarks.agent import show, trials
from benchmarks.agent.processors import stages_cpu_ms, tiers_cpu_s
from benchmarks.agent.recordings import (
    CARDS,
    INTERRUPTIONS,
    MISSING_PEOPLE,
    MURMURS,
    PERSON,
    QUESTIONS,
    SENTENCES,
    VOICES,
    noises,
    people,
    spoken,
)
from orpheus.http.process import free_port, url_of
from orpheus.ops.bench.show import NO_PICTURE, save_picture
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.ops.serve import LOCAL, START_S
from orpheus.settings import EMBEDDED, PREFIX

MOST_PEOPLE = 16
STOP_S = 8.0
NOISE_S = 1.2


@dataclass(frozen=True)
class Effort:
    """How much of everything."""

    questions: int  # of each kind of turn detection, by the pair's voices
    sentences: int  # the same, by people
    cards: int
    interruptions: int
    noises: int
    noises_over: int
    echoes: int
    murmurs: int
    crowds: tuple[int, ...]
    rounds: int  # of questions in a crowd


QUICK = Effort(7, 3, 0, 6, 7, 4, 3, 10, (1, 2, 3), 2)
FULL = Effort(18, 7, 5, 18, 28, 20, 12, 40, (1, 2, 3, 4, 6, 8, 12, 16), 3)


@contextmanager
def talking() -> Iterator[ChildServer]:
    """`orpheus talk`, ready, with the embedded parts."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    port, llama_port = free_port(LOCAL, 0, "--port"), free_port(LOCAL, 0, "--llama-port")
    environment = {
        "ORPHEUS_PORT": str(port),
        "ORPHEUS_LLAMA_PORT": str(llama_port),
        "ORPHEUS_MODEL": EMBEDDED,
        "ORPHEUS_CODEC": EMBEDDED,
        "ORPHEUS_MAX_CONVERSATIONS": str(MOST_PEOPLE),
        "ORPHEUS_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "orpheus", "talk"]
    talk = ChildServer("talk", command, url_of(LOCAL, port), environment=environment, capture=True)
    try:
        wait_until_healthy([talk], START_S)
        yield talk
    finally:
        talk.stop(STOP_S)


class Sounds:
    """All that will be said, made or read."""

    def __init__(self, url: str, effort: Effort) -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            self.questions = [
                spoken(client, text, VOICES[number % len(VOICES)], number)
                for number, text in enumerate(QUESTIONS[: effort.questions])
            ]
            self.interruptions = [
                spoken(
                    client,
                    INTERRUPTIONS[number % len(INTERRUPTIONS)],
                    VOICES[(number + 3) % len(VOICES)],
                    number,
                )
                for number in range(effort.interruptions)
            ]
            # Each by each voice, in an order that has both changing, so that a part has some of all.
            self.murmurs = [
                spoken(client, MURMURS[number % len(MURMURS)], VOICES[number * 3 // 2 % len(VOICES)], number)
                for number in range(effort.murmurs)
            ]
        self.sentences = people(SENTENCES)[: effort.sentences]
        self.cards = people(CARDS)[: effort.cards]
        kinds = [sound for seed in range(8) for sound in noises(NOISE_S, seed)]
        self.noises = kinds[: effort.noises]
        self.noises_over = kinds[effort.noises : effort.noises + effort.noises_over]


def progress(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def measure(talk: ChildServer, sounds: Sounds, effort: Effort) -> dict[str, float]:
    url, result = talk.url, {"load": os.getloadavg()[0]}
    print(
        f"load {result['load']:.1f}: figures in milliseconds are those of the machine if it has nothing else to do"
    )
    if not sounds.sentences:
        print(MISSING_PEOPLE)
    asked = [*sounds.sentences, *sounds.questions]
    kinds: dict[str, list[trials.Turn]] = {}
    for turns in (trials.SERVER_VAD, trials.SEMANTIC_VAD):
        kind = str(turns["type"])
        before_s = tiers_cpu_s(talk.process.pid)
        kinds[kind] = found = await trials.questions(url, turns, asked, progress)
        after_s = tiers_cpu_s(talk.process.pid)
        result |= show.print_turns(kind, found)
        for tier, used_s in after_s.items():
            each_ms = (used_s - before_s[tier]) * 1000 / len(found)
            result[f"{tier.replace(' ', '')}_cpu_ms_a_turn_{kind}"] = each_ms
            print(f"  {tier}: {each_ms:.0f} ms of processor time a turn, listening and answering")
    every = [turn for found in kinds.values() for turn in found]
    result["transcript_wer"] = show.print_transcripts("all recordings", every)
    for kind, persons in (("people", True), ("voices", False)):
        if some := [turn for turn in every if (turn.sound.speaker == PERSON) == persons]:
            result[f"transcript_wer_{kind}"] = trials.words_misheard(some)
            print(f"  {kind}: {result[f'transcript_wer_{kind}']:.1%}")
    if sounds.cards:
        found = await trials.questions(url, trials.SERVER_VAD, sounds.cards, progress)
        result["transcript_wer_cards"] = show.print_transcripts("single words", found)
    cut = await trials.interruptions(url, sounds.interruptions, progress)
    result |= show.print_interruptions(cut)
    # Nothing is timed here, so two conversations at once do.
    murmurs = trials.over_answers(url, "murmur", sounds.murmurs, progress)
    murmured, others = await asyncio.gather(murmurs, _other_tries(url, sounds, effort))
    result |= show.print_tries([*murmured, *others])
    crowds = await _crowds(url, sounds, effort)
    result |= show.print_crowds(crowds)
    drawn = save_picture(RESULTS / "agent.png", lambda pyplot: show.draw(pyplot, kinds, crowds))
    print(f"\nWritten: {RESULTS / 'agent.png'}" if drawn else f"\n{NO_PICTURE}")
    return result


async def _other_tries(url: str, sounds: Sounds, effort: Effort) -> list[trials.Try]:
    return [
        *await trials.noises(url, sounds.noises, progress),
        *await trials.over_answers(url, "noise over an answer", sounds.noises_over, progress),
        *await trials.echoes(url, effort.echoes, progress),
    ]


async def _crowds(url: str, sounds: Sounds, effort: Effort) -> list[trials.Crowd]:
    """More and more at once, until they wait twice as long as one, hear a hole, or are refused."""
    found: list[trials.Crowd] = []
    for callers in effort.crowds:
        found.append(await trials.crowd(url, callers, sounds.questions, effort.rounds))
        progress(f"{callers} conversations at once")
        if not found[-1].holds(found[0]):
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer of everything, in four minutes")
    effort = QUICK if parser.parse_args().quick else FULL
    with talking() as talk:
        sounds = Sounds(talk.url, effort)
        result = asyncio.run(measure(talk, sounds, effort))
    result |= show.print_costs(asyncio.run(stages_cpu_ms(sounds.questions)))
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
