"""How soon and how smoothly conversations are answered, when words come as an LLM writes them.

    python -m benchmarks.conversation [--quick]

Conversations over unmute's protocol, as clients/unmute_tts.py plays them, with a pair started here: from the first word
to the first audio, and underruns, with 1, 8 and 20 at once, the last with as many more as it takes to ask for 80% of
this machine's capacity; how long after a socket closes in the middle of a turn both tiers are free; a picture of one
turn in benchmarks/results/conversation.png. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks import RESULTS
from clients.unmute_tts import Audio, Eos, Error, TextToSpeech
from orpheus.ops.bench.bench import LOAD
from orpheus.ops.bench.listening import RATE, client, listen, quantile, read_metrics
from orpheus.ops.bench.show import save_picture
from orpheus.ops.serve import Pair, running_pair
from orpheus.playout import PlayoutClock
from orpheus.settings import EMBEDDED, load_settings

CONVERSATIONS = (1, 8, 20)
STREAMS = 48  # of tier 1: one for everybody
WORDS_PER_S = 20.0
WORDS_S = 0.7  # about, that a turn lasts beyond its audio: dialling, the first words, closing
PAUSE_S = 0.3  # least, between an answer and the next turn: somebody else speaks
FREE_S = 10.0  # longest, for both tiers to be free after a close
LIMIT_S = 60.0  # of a turn
ACTIVE = ("orpheus_speech_active", *(f"orpheus_streams_{name}" for name in ("active", "waiting", "paused")))
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


async def llm(text: str, chance: random.Random) -> AsyncIterator[str]:
    """Words as they are written: 20 a second, unevenly."""
    for word in text.split():
        yield word
        await asyncio.sleep(chance.expovariate(WORDS_PER_S))


class BrokenOff(Exception):
    """A turn ended before all of its audio had played."""


@dataclass
class Turn:
    """Times are of time.monotonic()."""

    first_word_s: float = 0.0  # sent
    played: list[tuple[float, float]] = field(default_factory=list)  # when, and seconds of audio
    playout: PlayoutClock = field(default_factory=PlayoutClock)

    @property
    def first_audio_s(self) -> float:
        """Seconds from the first word."""
        return self.played[0][0] - self.first_word_s


async def take_turn(url: str, words: AsyncIterator[str], leave_after_s: float = math.inf) -> Turn:
    """Have `words` spoken, and leave that long after the first audio. Raises BrokenOff."""
    turn, speech = Turn(), TextToSpeech(url, "tara")

    async def send() -> None:
        async for word in words:
            await speech.send(word)
            turn.first_word_s = turn.first_word_s or time.monotonic()
        await speech.send(Eos())

    try:
        async with asyncio.timeout(LIMIT_S), contextlib.AsyncExitStack() as stack:
            await speech.start_up()
            stack.callback(asyncio.create_task(send()).cancel)
            async for message in speech:
                now_s = time.monotonic()
                if isinstance(message, Error):
                    raise BrokenOff(message.message)
                if isinstance(message, Audio):
                    audio_s = len(message.pcm) / RATE
                    turn.played.append((now_s, audio_s))
                    turn.playout.add(audio_s, now_s)
                    if now_s - turn.played[0][0] > leave_after_s:
                        break
    except (OSError, ConnectionClosed) as error:
        raise BrokenOff(str(error) or "timed out") from error
    finally:
        await speech.shutdown()
    if not turn.played:
        raise BrokenOff("no audio came")
    return turn


@dataclass
class ConversationReport:
    """The results of all conversations of one run."""

    turns: list[Turn] = field(default_factory=list)
    broken_off: list[str] = field(default_factory=list)  # why
    load: float = 0.0  # of the capacity, once all had begun

    @property
    def underruns(self) -> int:
        return sum(turn.playout.underruns for turn in self.turns)

    def first_audio_ms(self, share: float) -> float:
        return quantile([turn.first_audio_s * 1000 for turn in self.turns], share)


async def at_once(url: str, rounds: int) -> tuple[float, float]:
    """Seconds of speech a second when all replies are asked for at once, twice; and how long a reply lasts."""
    audio_s: list[float] = []
    started_s = time.monotonic()
    async with client(url) as asking:
        for turn in range(rounds):
            asked = [listen(asking, reply, turn * 2 + seed) for reply in REPLIES for seed in (0, 1)]
            audio_s += [report.audio_s for report in await asyncio.gather(*asked)]
    return sum(audio_s) / (time.monotonic() - started_s), statistics.mean(audio_s)


def enough(people: int, capacity: float, turn_s: float) -> int:
    """As many people, or as many as it takes to ask for LOAD: none can listen all the time."""
    return max(people, math.ceil(LOAD * capacity * (turn_s + PAUSE_S + WORDS_S) / turn_s))


async def converse(
    url: str, people: int, cycles: float, capacity: float, turn_s: float
) -> ConversationReport:
    """People who come one after another, and pause after each answer so that all together ask for LOAD.

    `turn_s` is how long an answer lasts. Few people cannot ask for as much: they pause as little as people do.
    """
    cycle_s = max(people * turn_s / (LOAD * capacity), turn_s + PAUSE_S)
    report = ConversationReport()
    started_s = time.monotonic()
    ends_s = started_s + cycles * cycle_s

    async def person(number: int) -> None:
        chance = random.Random(number)
        await asyncio.sleep(number * cycle_s / people)
        turn = number
        while (began_s := time.monotonic()) < ends_s:
            try:
                report.turns.append(await take_turn(url, llm(REPLIES[turn % len(REPLIES)], chance)))
            except BrokenOff as error:
                report.broken_off.append(str(error))
            turn += 1
            rest_s = began_s + cycle_s * chance.uniform(0.8, 1.2) - time.monotonic()
            await asyncio.sleep(max(PAUSE_S, rest_s))

    await asyncio.gather(*(person(number) for number in range(people)))
    steady_s = started_s + cycle_s
    audio_s = sum(
        audio_s for turn in report.turns for at_s, audio_s in turn.played if steady_s < at_s < ends_s
    )
    report.load = audio_s / (ends_s - steady_s) / capacity
    return report


async def cancels(pair: Pair, rounds: int) -> list[float]:
    """Seconds from closing a socket at any moment of a turn, words still coming, until neither tier is active."""
    chance = random.Random(1)
    taken_s = []
    async with httpx.AsyncClient(trust_env=False) as asking:
        for _ in range(rounds):
            await take_turn(pair.url, llm(LONG, chance), chance.uniform(0.0, 1.5))
            closed_s = time.monotonic()
            while await active(asking, pair):
                if time.monotonic() - closed_s > FREE_S:
                    raise RuntimeError(f"a stream was still active {FREE_S:g} s after its socket was closed")
            taken_s.append(time.monotonic() - closed_s)
    return taken_s


async def active(asking: httpx.AsyncClient, pair: Pair) -> float:
    """Utterances in tier 2 and streams in tier 1, now."""
    pages = await asyncio.gather(*(asking.get(f"{url}/metrics") for url in (pair.url, pair.llama_url)))
    return sum(read_metrics(page.text).get(name, 0.0) for page in pages for name in ACTIVE)


@dataclass
class Timeline:
    """One turn; times in seconds since its first word."""

    words: list[tuple[float, str]] = field(default_factory=list)
    segments: list[tuple[float, str]] = field(default_factory=list)  # when their first audio came
    audio: list[tuple[float, float]] = field(default_factory=list)  # when, and how many seconds of it
    spoken: list[tuple[float, float, str]] = field(default_factory=list)  # start and stop in the audio


async def watched(url: str) -> Timeline:
    """One turn over `/v1/audio/speech/stream`, which reports its segments."""
    seen = Timeline()
    async with connect(url.replace("http", "ws", 1) + "/v1/audio/speech/stream", proxy=None) as socket:
        config = {"voice": "tara", "response_format": "pcm", "stream_audio": True, "word_timestamps": True}
        await socket.send(json.dumps({"type": "session.config", "split_granularity": "clause", **config}))
        began_s = time.monotonic()

        async def write() -> None:
            async for word in llm(LONG[:240], random.Random(3)):
                await socket.send(json.dumps({"type": "input.text", "text": word + " "}))
                seen.words.append((time.monotonic() - began_s, word))
            await socket.send(json.dumps({"type": "input.done"}))

        writing = asyncio.create_task(write())
        async for message in socket:
            now_s = time.monotonic() - began_s
            if isinstance(message, bytes):
                seen.audio.append((now_s, len(message) / 2 / RATE))
                continue
            event = json.loads(message)
            match event["type"]:
                case "audio.start":
                    seen.segments.append((now_s, event["sentence_text"]))
                case "audio.word":
                    seen.spoken.append((event["start_s"], event["stop_s"], event["text"]))
                case "error":
                    raise RuntimeError(event["message"])
                case "session.done":
                    break
        await writing
    return seen


def draw(pyplot: Any, seen: Timeline) -> Any:
    """Words in, segments, audio out and playout of one turn, over the seconds since its first word."""
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
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    quick = parser.parse_args().quick
    result: dict[str, float] = {}
    settings = load_settings(model=EMBEDDED, codec=EMBEDDED)
    with running_pair(settings, ORPHEUS_STREAMS=str(STREAMS)) as pair:
        asyncio.run(at_once(pair.url, 1))  # warm
        capacity, turn_s = asyncio.run(at_once(pair.url, 2 if quick else 6))
        result["times_real_time"] = capacity
        print(f"{capacity:.1f} times real time; an answer lasts {turn_s:.1f} s")
        print("\nconversations   turns   first audio p50  p99      holes  longest      load   broken off")
        for people in CONVERSATIONS:
            cycles = (5 if people == 1 else 3) if quick else (30 if people == 1 else 12)
            talking = people if people < CONVERSATIONS[-1] else min(STREAMS, enough(people, capacity, turn_s))
            report = asyncio.run(converse(pair.url, talking, cycles, capacity, turn_s))
            p50, p99 = report.first_audio_ms(0.5), report.first_audio_ms(0.99)
            longest_ms = max(turn.playout.longest_underrun_s for turn in report.turns) * 1000
            result |= {
                f"first_audio_ms_p50_{people}": p50,
                f"first_audio_ms_p99_{people}": p99,
                f"holes_{people}": report.underruns,
                f"load_{people}": report.load,
                f"turns_{people}": len(report.turns),
                f"people_{people}": talking,
                f"broken_off_{people}": len(report.broken_off),
            }
            print(
                f"{talking:13d} {len(report.turns):7d}   {p50:12.0f} {p99:6.0f} ms{report.underruns:8d} "
                f"{longest_ms:6.0f} ms {report.load:8.0%} {len(report.broken_off):10d}"
            )
            for why in sorted(set(report.broken_off)):
                print(f"    {why}")
        taken_s = asyncio.run(cancels(pair, 15 if quick else 100))
        p50, p99 = quantile(taken_s, 0.5) * 1000, quantile(taken_s, 0.99) * 1000
        result |= {"cancel_ms_p50": p50, "cancel_ms_p99": p99}
        print(
            f"\nclosed in the middle of a turn: both tiers free after {p50:.0f} ms, p99 {p99:.0f} ms of "
            f"{len(taken_s)}"
        )
        seen = asyncio.run(watched(pair.url))
    save_picture(RESULTS / "conversation.png", lambda pyplot: draw(pyplot, seen))
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
