"""The trials: how soon the agent answers, what interrupts it and what does not, and how many it can talk to at once."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.agent.caller import MINUS_20_DB, Answer, BrokenOff, Caller, calling
from benchmarks.agent.recordings import PROMPTS, Sound, words_wrong
from orpheus.agent.turns import START_FRAMES, TurnConfig
from orpheus.agent.vad import FRAME_MS, FRAME_SAMPLES, VoiceActivity
from orpheus.ops.bench.listening import quantile

SPEECH_STARTED = "input_audio_buffer.speech_started"
Progress = Callable[[str], None]
T = TypeVar("T")
R = TypeVar("R")

SERVER_VAD: dict[str, Any] = {"type": "server_vad", "silence_duration_ms": 500}
SEMANTIC_VAD: dict[str, Any] = {"type": "semantic_vad"}
TURNS_EACH = 6  # in one conversation
LISTENED_S = (0.5, 1.2)  # to an answer, before somebody speaks into it
SETTLES_S = (
    1.2  # for what was heard to become a turn, if it does: more than a quiet that ends one, and a transcript
)
MOST_ANSWERS = 5  # tried, until one lasts
MOST_BROKEN = 3  # conversations of one kind of trial
UNANSWERED_S = 8.0  # after a question: no answer comes
THINKING_S = (0.3, 0.9)  # before the next question


async def _each(
    url: str,
    turns: dict[str, Any],
    what: str,
    items: Sequence[T],
    one: Callable[[Caller, T], Awaitable[R]],
    progress: Progress,
) -> list[R]:
    """`one` of each, TURNS_EACH in a conversation. What is broken off is told and left out; BrokenOff if much of it is."""
    waiting, done, broken = deque(items), list[R](), 0
    while waiting:
        try:
            async with calling(url, turns) as caller:
                for _ in range(min(TURNS_EACH, len(waiting))):
                    await caller.settled()
                    done.append(await one(caller, waiting.popleft()))
                    progress(f"{what}: {len(done)} of {len(items)}")
        except BrokenOff as error:
            broken += 1
            progress(f"{what}: broken off, {error}")
            if broken > MOST_BROKEN:
                raise
    return done


@dataclass
class Turn:
    """A question and its answer."""

    sound: Sound
    heard: list[str]  # transcripts, one for each turn that it was taken for
    wait_s: float | None  # from its last sample to the first audio of the answer; None if none came
    stages: dict[str, float | None]  # milliseconds, as the agent tells them
    underruns: int


def waits_ms(turns: Sequence[Turn]) -> list[float]:
    """Of those that were answered."""
    return [turn.wait_s * 1000 for turn in turns if turn.wait_s is not None]


def words_misheard(turns: Sequence[Turn]) -> float:
    """The share of words."""
    return words_wrong([turn.sound.text for turn in turns], [" ".join(turn.heard) for turn in turns])


async def ask(caller: Caller, sound: Sound, *, to_the_end: bool = False) -> Turn:
    """Say something, wait for the answer and hang on, or listen to all of it."""
    moment = len(caller.heard)
    _, said_s = await caller.say(sound)

    def answer() -> Answer | None:
        """What was answered in a pause was cut off, or goes on."""
        return next((one for one in caller.answers.values() if one.last_s > said_s), None)

    try:
        await caller.until(answer, "an answer", UNANSWERED_S)
    except BrokenOff:
        await caller.hang_on()
        return Turn(sound, _transcripts(caller, moment), None, {}, 0)
    found = answer()
    assert found is not None
    assert found.first_s is not None
    if to_the_end:
        await caller.until(lambda: found.status is not None, "the end of an answer")
    else:
        await caller.hang_on()
    wait_s = found.first_s - said_s
    return Turn(sound, _transcripts(caller, moment), wait_s, found.stages, found.playout.underruns)


def _transcripts(caller: Caller, moment: int) -> list[str]:
    completed = caller.since(moment, "conversation.item.input_audio_transcription.completed")
    return [str(heard.event["transcript"]) for heard in completed]


async def questions(
    url: str, turns: dict[str, Any], sounds: Sequence[Sound], progress: Progress
) -> list[Turn]:
    """Each said in turn."""
    return await _each(url, turns, turns["type"], sounds, ask, progress)


@dataclass
class Interruption:
    """Somebody speaks into an answer to stop it."""

    sound: Sound
    echo: bool  # the microphone hears the agent too
    silent_s: float | None = None  # from the first sample until the agent was silent; None: it went on
    detected_s: float = 0.0  # from the first sample until the sound was speech for voice activity alone
    late_bytes: int = 0


async def interruptions(url: str, sounds: Sequence[Sound], progress: Progress) -> list[Interruption]:
    """Each said into an answer, every second one with the agent's echo beneath."""
    activity = VoiceActivity.load()
    over = _Answers(random.Random(1))

    async def one(caller: Caller, item: tuple[int, Sound]) -> Interruption:
        number, sound = item
        found = Interruption(sound, number % 2 == 1, detected_s=_detected_s(activity(), sound))
        caller.echo = MINUS_20_DB if found.echo else 0.0
        moment, began_s = await over.say(caller, sound)
        caller.echo = 0.0
        await asyncio.sleep(SETTLES_S)
        old = [answer for answer in caller.answers.values() if answer.created_s < began_s]
        if started := caller.since(moment, SPEECH_STARTED):
            found.silent_s = max(started[0].at_s, *(answer.last_s for answer in old)) - began_s
        found.late_bytes = sum(answer.late_bytes for answer in old)
        await caller.hang_on()
        return found

    return await _each(url, SERVER_VAD, "interruptions", [*enumerate(sounds)], one, progress)


class _Answers:
    """Answers that the agent is giving when something else is said."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._prompts = itertools.cycle(PROMPTS)

    async def say(self, caller: Caller, sound: Sound) -> tuple[int, float]:
        """Say it into an answer → how many events there were before, and when its first sample was sent.

        Said again into another if the answer was over before it and cannot have been cut off.
        """
        for _ in range(MOST_ANSWERS):
            if not caller.answering:
                await caller.settled()
                await caller.write(next(self._prompts))
                await caller.until(lambda: caller.playing_s > 0, "an answer")
            await asyncio.sleep(self._chance.uniform(*LISTENED_S))
            moment = len(caller.heard)
            began_s, _ = await caller.say(sound)
            if caller.playing_s > 0 or caller.since(moment, SPEECH_STARTED):
                return moment, began_s
        raise BrokenOff(f"no answer lasts {sound.seconds:.1f} s")


def _detected_s(activity: VoiceActivity, sound: Sound) -> float:
    """When voice activity alone would have told."""
    loud = 0
    samples = sound.heard()
    for at in range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        loud = (
            loud + 1 if activity.probability(samples[at : at + FRAME_SAMPLES]) > TurnConfig().threshold else 0
        )
        if loud == START_FRAMES:
            return (at // FRAME_SAMPLES + 1) * FRAME_MS / 1000
    return sound.seconds


@dataclass
class Try:
    """Something that is no turn: a noise, the agent's echo, a listener's murmur."""

    kind: str  # "noise", "noise over an answer", "echo", "murmur"
    sound: Sound | None
    turns: int = 0  # that it was taken for
    starts: int = 0  # times the agent said it heard somebody: over an answer that alone cuts it off
    heard: list[str] = field(default_factory=list)

    @property
    def is_false(self) -> bool:
        return self.turns > 0 or (self.kind != "noise" and self.starts > 0)


async def noises(url: str, sounds: Sequence[Sound], progress: Progress) -> list[Try]:
    """Each while nobody speaks."""

    async def one(caller: Caller, sound: Sound) -> Try:
        moment = len(caller.heard)
        await caller.say(sound)
        await asyncio.sleep(SETTLES_S)
        return _judged(Try("noise", sound), caller, moment)

    return await _each(url, SERVER_VAD, "noises", sounds, one, progress)


async def over_answers(url: str, kind: str, sounds: Sequence[Sound], progress: Progress) -> list[Try]:
    """Each into an answer that is being played."""
    over = _Answers(random.Random(2))

    async def one(caller: Caller, sound: Sound) -> Try:
        moment, _ = await over.say(caller, sound)
        await asyncio.sleep(SETTLES_S)
        found = _judged(Try(kind, sound), caller, moment)
        await caller.hang_on()
        return found

    return await _each(url, SERVER_VAD, kind, sounds, one, progress)


async def echoes(url: str, count: int, progress: Progress) -> list[Try]:
    """Answers that the microphone hears from their beginning to their end, 20 dB below the loudspeaker."""

    async def one(caller: Caller, number: int) -> Try:
        caller.echo = MINUS_20_DB
        moment = len(caller.heard)
        await caller.write(PROMPTS[number % len(PROMPTS)])
        await caller.until(lambda: caller.playing_s > 0, "an answer")
        await caller.settled()
        await asyncio.sleep(SETTLES_S)
        return _judged(Try("echo", None), caller, moment)

    return await _each(url, SERVER_VAD, "echo", range(count), one, progress)


def _judged(one: Try, caller: Caller, moment: int) -> Try:
    one.turns = len(caller.since(moment, "input_audio_buffer.committed"))
    one.starts = len(caller.since(moment, SPEECH_STARTED))
    one.heard = _transcripts(caller, moment)
    return one


@dataclass
class Crowd:
    """Several conversations at once."""

    people: int
    turns: list[Turn] = field(default_factory=list)
    broken_off: list[str] = field(default_factory=list)

    @property
    def wait_ms(self) -> float:
        waited_ms = waits_ms(self.turns)
        return quantile(waited_ms, 0.5) if waited_ms else math.inf

    @property
    def underruns(self) -> int:
        return sum(turn.underruns for turn in self.turns)

    def holds(self, alone: Crowd) -> bool:
        """Whether all were answered, within twice the time that one waits `alone`, and heard no hole."""
        everybody = not self.broken_off and len(waits_ms(self.turns)) == len(self.turns)
        return everybody and not self.underruns and self.wait_ms <= 2 * alone.wait_ms


async def crowd(url: str, people: int, sounds: Sequence[Sound], rounds: int) -> Crowd:
    """Each asks `rounds` questions, and listens to every answer to its end."""
    found = Crowd(people)

    async def person(number: int) -> None:
        chance = random.Random(number)
        try:
            async with calling(url, SERVER_VAD) as caller:
                for turn in range(rounds):
                    await asyncio.sleep(chance.uniform(*THINKING_S))
                    await caller.settled()
                    sound = sounds[(number * rounds + turn) % len(sounds)]
                    found.turns.append(await ask(caller, sound, to_the_end=True))
        except BrokenOff as error:
            found.broken_off.append(str(error))

    await asyncio.gather(*(person(number) for number in range(people)))
    return found
