"""How soon and how smoothly conversations are answered, words coming as an LLM writes them.

    python -m benchmarks.conversation [--quick]

Both tiers as processes; conversations over the orchestrator's protocol, each with the player of tests/orchestrator.py:
first word to first audio and holes with 1, 8 and 20 at once, the last with as many more as it takes to ask for 80% of
this machine's capacity; what closing a socket in the middle of a turn takes to free both tiers; a picture of one turn in
benchmarks/results/conversation.png. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from benchmarks.speech import LOAD, RESULTS
from orpheus.ops.bench.listening import client, listen, quantile
from tests.support.live import Pair, running_pair
from tests.support.unmute import Orchestrator, SessionKilled, Turn

CONVERSATIONS = (1, 8, 20)
STREAMS = 48  # of tier 1: a place for everybody
WORDS_PER_S = 20.0
WORDS_S = 0.7  # about, that a turn lasts beyond its audio: dialling, the first words, closing
PAUSE_S = 0.3  # between an answer and the next at the least: somebody else speaks
REPLIES = (
    "Well, that is a good question. The old harbour was closed in the spring, and nobody has used it since.",
    "Yes, of course. Take the second street on the left, then walk until you see the river.",
    "I am not quite sure what you mean. Could you tell me a little more about it?",
    "The train leaves at nine. There is another one at ten, but it is slower, and it is often late.",
    "That sounds lovely! I would bring a warm coat, because the evenings are cold up there.",
    "Let me think. First we open the window, then we put the bread on the table, and then we wait.",
    "No, not today. The shop is closed on Monday, so we will have to go tomorrow morning.",
    "It was a long winter. The children played in the snow, and the dog slept beside the fire.",
)
LONG = " ".join(REPLIES * 2)
SAMPLE_RATE = 24_000


async def llm(text: str, chance: random.Random) -> AsyncIterator[str]:
    """Words as they are written: 20 a second, none at an even distance."""
    for word in text.split():
        yield word
        await asyncio.sleep(chance.expovariate(WORDS_PER_S))


@dataclass
class Talk:
    """What all people of one run heard."""

    turns: list[Turn] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    load: float = 0.0  # of the capacity, once all had begun

    @property
    def holes(self) -> int:
        return sum(turn.player.underruns for turn in self.turns)

    def first_audio_ms(self, share: float) -> float:
        return quantile([turn.first_audio_s * 1000 for turn in self.turns], share)


async def at_once(url: str, rounds: int) -> tuple[float, float]:
    """Seconds of speech a second when all replies are asked for at once, twice; and how long a reply lasts."""
    audio_s: list[float] = []
    started_s = time.monotonic()
    async with client(url) as asking:
        for turn in range(rounds):
            heard = [listen(asking, reply, turn * 2 + seed) for reply in REPLIES for seed in (0, 1)]
            audio_s += [one.audio_s for one in await asyncio.gather(*heard)]
    return sum(audio_s) / (time.monotonic() - started_s), statistics.mean(audio_s)


def enough(people: int, capacity: float, turn_s: float) -> int:
    """As many people, or as many as it takes to ask for LOAD: none can listen all the time."""
    return max(people, math.ceil(LOAD * capacity * (turn_s + PAUSE_S + WORDS_S) / turn_s))


async def converse(url: str, people: int, cycles: float, capacity: float, turn_s: float) -> Talk:
    """People who come one after another, and pause after each answer so that all together ask for LOAD.

    `turn_s` is how long an answer lasts. Few people cannot ask for as much: they pause as little as people do.
    """
    cycle_s = max(people * turn_s / (LOAD * capacity), turn_s + PAUSE_S)
    talk = Talk()
    started_s = time.monotonic()
    ends_s = started_s + cycles * cycle_s

    async def person(number: int) -> None:
        chance = random.Random(number)
        await asyncio.sleep(number * cycle_s / people)
        turn = number
        while (begun_s := time.monotonic()) < ends_s:
            try:
                words = llm(REPLIES[turn % len(REPLIES)], chance)
                talk.turns.append(await Orchestrator(url, "tara").turn(words))
            except (SessionKilled, TimeoutError) as error:
                talk.killed.append(str(error) or "timed out")
            turn += 1
            rest_s = begun_s + cycle_s * chance.uniform(0.8, 1.2) - time.monotonic()
            await asyncio.sleep(max(PAUSE_S, rest_s))

    await asyncio.gather(*(person(number) for number in range(people)))
    samples = sum(
        len(message["pcm"])
        for turn in talk.turns
        for at_s, message in turn.received
        if message["type"] == "Audio" and started_s + cycle_s < at_s < ends_s
    )
    talk.load = samples / SAMPLE_RATE / (ends_s - started_s - cycle_s) / capacity
    return talk


async def cancels(pair: Pair, rounds: int) -> list[float]:
    """Seconds from closing a socket while words still come, at any moment of a turn, to nothing active in either tier."""
    chance = random.Random(1)
    taken = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(rounds):
            await Orchestrator(pair.url, "tara").turn(
                llm(LONG, chance), interrupt_after_s=chance.uniform(0.0, 1.5)
            )
            closed_s = time.monotonic()
            while await active(client, pair):
                if time.monotonic() - closed_s > 10:
                    raise RuntimeError("a stream was still active 10 s after its socket was closed")
            taken.append(time.monotonic() - closed_s)
    return taken


async def active(client: httpx.AsyncClient, pair: Pair) -> float:
    """Utterances in tier 2 and streams in tier 1, now."""
    texts = await asyncio.gather(*(client.get(f"{url}/metrics") for url in (pair.url, pair.llama_url)))
    names = "orpheus_speech_active|orpheus_streams_active|orpheus_streams_waiting|orpheus_streams_paused"
    return sum(
        float(value) for text in texts for value in re.findall(rf"^(?:{names}) (\S+)$", text.text, re.M)
    )


@dataclass
class Watched:
    """One turn; times in seconds since its first word."""

    words: list[tuple[float, str]] = field(default_factory=list)
    segments: list[tuple[float, str]] = field(default_factory=list)  # when its first audio came
    audio: list[tuple[float, float]] = field(default_factory=list)  # when, and how many seconds of it
    spoken: list[tuple[float, float, str]] = field(default_factory=list)  # start and stop in the audio


async def watched(url: str) -> Watched:
    """One turn over `/v1/audio/speech/stream`, which tells of its segments; what happened when."""
    seen = Watched()
    async with connect(url.replace("http", "ws", 1) + "/v1/audio/speech/stream", proxy=None) as socket:
        config = {"voice": "tara", "response_format": "pcm", "stream_audio": True, "word_timestamps": True}
        await socket.send(json.dumps({"type": "session.config", "split_granularity": "sentence", **config}))
        begun_s = time.monotonic()

        async def write() -> None:
            async for word in llm(LONG[:240], random.Random(3)):
                await socket.send(json.dumps({"type": "input.text", "text": word + " "}))
                seen.words.append((time.monotonic() - begun_s, word))
            await socket.send(json.dumps({"type": "input.done"}))

        writing = asyncio.create_task(write())
        async for message in socket:
            now_s = time.monotonic() - begun_s
            if isinstance(message, bytes):
                seen.audio.append((now_s, len(message) / 2 / SAMPLE_RATE))
                continue
            event = json.loads(message)
            if event["type"] == "audio.start":
                seen.segments.append((now_s, event["sentence_text"]))
            elif event["type"] == "audio.word":
                seen.spoken.append((event["start_s"], event["stop_s"], event["text"]))
            elif event["type"] == "error":
                raise RuntimeError(event["message"])
            elif event["type"] == "session.done":
                break
        await writing
    return seen


def draw(seen: Watched, picture: Path) -> None:
    """Words in, segments, audio out and playout of one turn, over the seconds since its first word."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blue, red, grey = "#2b6cb0", "#c53030", "#718096"
    at_s = [when for when, _ in seen.audio]
    sent_s = list(accumulate(audio_s for _, audio_s in seen.audio))
    first_s, whole_s = at_s[0], sent_s[-1]
    figure, (lanes, curve) = pyplot.subplots(2, sharex=True, figsize=(12, 5.4), layout="constrained")
    lanes.vlines([when for when, _ in seen.words], 2.6, 3.0, color=grey, linewidth=1)
    ends_s = [when for when, _ in seen.segments[1:]] + [at_s[-1]]
    for index, ((when, text), end_s) in enumerate(zip(seen.segments, ends_s, strict=True)):
        lanes.broken_barh([(when, end_s - when)], (1.4, 0.6), facecolor=blue, alpha=0.35 + 0.3 * (index % 2))
        lanes.text(when, 2.05, text[: int(14 * (end_s - when))], fontsize=6, color=blue)
    for start_s, stop_s, word in seen.spoken:
        lanes.broken_barh([(first_s + start_s, stop_s - start_s)], (0.2, 0.6), facecolor=red, alpha=0.5)
        lanes.text(first_s + start_s, 0.85, word, rotation=60, fontsize=6, color=red)
    lanes.set(
        yticks=[0.5, 1.7, 2.8], yticklabels=["words heard", "segments sent", "words written"], ylim=(0, 4)
    )
    lanes.set_title(f"One turn: first sound {first_s * 1000:.0f} ms after the first word")
    curve.step(at_s, sent_s, where="post", color=blue, label="audio sent")
    curve.plot([first_s, first_s + whole_s], [0, whole_s], color=red, label="audio played")
    curve.set(xlabel="seconds since the first word", ylabel="seconds of audio")
    curve.legend(loc="upper left")
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    quick = parser.parse_args().quick
    result: dict[str, float] = {}
    work = Path(tempfile.mkdtemp())
    with running_pair(work, ORPHEUS_STREAMS=str(STREAMS)) as pair:
        url = pair.url
        asyncio.run(at_once(url, 1))  # warm
        capacity, turn_s = asyncio.run(at_once(url, 2 if quick else 6))
        result["times_real_time"] = capacity
        print(f"{capacity:.1f} times real time; an answer lasts {turn_s:.1f} s")
        print("\nconversations   turns   first audio p50  p99      holes  longest      load   broken off")
        for people in CONVERSATIONS:
            cycles = (5 if people == 1 else 3) if quick else (30 if people == 1 else 12)
            talking = people if people < CONVERSATIONS[-1] else min(STREAMS, enough(people, capacity, turn_s))
            gc.disable()  # a collection of all that was heard stops every player for 0.2 s: no fault of the server's
            talk = asyncio.run(converse(url, talking, cycles, capacity, turn_s))
            gc.enable()
            for mark, share in (("p50", 0.5), ("p99", 0.99)):
                result[f"first_audio_ms_{mark}_{people}"] = talk.first_audio_ms(share)
            result |= {f"holes_{people}": talk.holes, f"load_{people}": talk.load}
            result[f"turns_{people}"] = len(talk.turns)
            result[f"people_{people}"] = talking
            result[f"broken_off_{people}"] = len(talk.killed)
            longest_ms = max(turn.player.longest_underrun_s for turn in talk.turns) * 1000
            print(
                f"{talking:13d} {len(talk.turns):7d}   {talk.first_audio_ms(0.5):12.0f} "
                f"{talk.first_audio_ms(0.99):6.0f} ms{talk.holes:8d} {longest_ms:6.0f} ms {talk.load:8.0%} "
                f"{len(talk.killed):10d}"
            )
            for why in sorted(set(talk.killed)):
                print(f"    {why}")
        taken = asyncio.run(cancels(pair, 15 if quick else 100))
        for mark, share in (("p50", 0.5), ("p99", 0.99)):
            result[f"cancel_ms_{mark}"] = quantile(taken, share) * 1000
        print(
            f"\nclosed in the middle of a turn: both tiers free after {result['cancel_ms_p50']:.0f} ms, "
            f"p99 {result['cancel_ms_p99']:.0f} ms of {len(taken)}"
        )
        draw(asyncio.run(watched(url)), RESULTS / "conversation.png")
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
