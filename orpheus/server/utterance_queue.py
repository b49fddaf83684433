"""Utterances of one connection, one after another → events, in the order a listener needs them.

Knows nothing of any wire format: each protocol (sockets/) turns its messages into calls here and these events into
its messages. Audio is let go with a bounded lead over real time, and words no earlier than their audio.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from orpheus.errors import BadRequest, OrpheusError
from orpheus.playout import PlayoutClock
from orpheus.server import request_context
from orpheus.server.service import SpeechService, Utterance
from orpheus.tasks import ended
from orpheus.text import StreamingSegmenter
from orpheus.tts.usage import Usage
from orpheus.tts.word_timing import Word, WordTimer

MOST_PENDING = 8  # utterances that may wait behind the one that is spoken
LEAD_S = (
    3.0  # audio sent ahead of real time: more outlasts a worse network, less is thrown away at a barge-in
)
PLACE_S = 5.0  # that an utterance waits for a place; later its listener would have given up


@dataclass(frozen=True)
class Started:
    """The audio of a part comes next."""

    utterance: int
    part: int
    text: str
    sample_rate: int


@dataclass(frozen=True)
class Audio:
    data: bytes
    heard_s: float  # how long it lasts


@dataclass(frozen=True)
class WordStarted:
    """A word whose audio comes next."""

    utterance: int
    word: Word


@dataclass(frozen=True)
class PartDone:
    utterance: int
    part: int
    bytes: int
    duration_s: float
    failed: bool = False


@dataclass(frozen=True)
class Done:
    """The utterance was said, or failed, and nothing more of it comes."""

    utterance: int
    parts: int


@dataclass(frozen=True)
class Failed:
    utterance: int
    error: OrpheusError
    partial: bool  # some of it was heard


@dataclass(frozen=True)
class Cancelled:
    utterance: int
    sent_s: float  # of audio


Event = Started | Audio | WordStarted | PartDone | Done | Failed | Cancelled


class Speech:
    """One utterance: text in while it is spoken."""

    def __init__(self, service: SpeechService, utterance: Utterance, number: int) -> None:
        """BadRequest where the utterance's settings are wrong, NotReady while the service loads."""
        self.number = number
        self.asked = utterance
        self.job = service.prepare_live(utterance)
        assert isinstance(self.job.spoken, StreamingSegmenter)
        self.text = self.job.spoken
        self.usage = Usage()
        self.playback = PlayoutClock()
        self.sent_s = 0.0
        self._service = service
        self._begun = False

    def push(self, text: str, *, word: bool = False) -> None:
        """More of its text. TooLarge where it gets too long."""
        if not self._begun and text.strip():
            self._begun = True
            self.usage.started_s = time.perf_counter()  # latencies count from the first text
        if word:
            self.text.push_word(text)
        else:
            self.text.push(text)
        if (known := request_context.current.get()) is not None:
            known.said(text)

    async def speak(self, emit: Emit, lead_s: float) -> None:
        """All of it, event by event; errors are raised after what went well."""
        rate = self._service.pipeline().sample_rate * self.job.speed
        words = WordTimer(self.text, self.usage, rate)
        part, size, told = -1, 0, 0
        begins_s = 0.0
        parts = self._service.encoded_parts(self.job, self.usage)
        try:
            async with aclosing(parts):
                async for number, chunk in parts:
                    if number != part:
                        if part >= 0:
                            await emit(PartDone(self.number, part, size, self.sent_s - begins_s))
                        part, size, begins_s = number, 0, self.sent_s
                        await emit(Started(self.number, part, self._text_of(part), self.job.sample_rate))
                    heard_s, told = (self.usage.samples - told) / rate, self.usage.samples
                    await self._keep_lead(heard_s, lead_s)
                    for word in words.due(told):
                        await emit(WordStarted(self.number, word))
                    self.playback.add(heard_s)
                    size += len(chunk)
                    await emit(Audio(chunk, heard_s))
                    self.sent_s += heard_s
            for word in words.rest():
                await emit(WordStarted(self.number, word))
        except OrpheusError:
            if part >= 0:
                await emit(PartDone(self.number, part, size, self.sent_s - begins_s, failed=True))
            raise
        if part >= 0:
            await emit(PartDone(self.number, part, size, self.sent_s - begins_s))
        await emit(Done(self.number, part + 1))

    async def _keep_lead(self, heard_s: float, lead_s: float) -> None:
        """Until the listener has less than `lead_s` in hand with these `heard_s` more; 0 is no bound."""
        if lead_s and self.playback.ends_s is not None:
            early_s = self.playback.ends_s - time.monotonic() + heard_s - lead_s
            if early_s > 0:
                await asyncio.sleep(early_s)

    def _text_of(self, part: int) -> str:
        if self.job.apart:
            return self.usage.said[part].text
        return "".join(span.text for span in self.text.spans).strip()


Emit = Callable[[Event], Awaitable[None]]


class UtteranceQueue:
    """The utterances of one connection. `run` speaks them while the other methods take what its client sends."""

    def __init__(self, service: SpeechService, emit: Emit, lead_s: float | None = None) -> None:
        self.lead_s = LEAD_S if lead_s is None else lead_s
        self.writing: Speech | None = None  # the utterance whose text is still coming
        self.speaking: Speech | None = None
        self._service = service
        self._emit = emit
        self._pending: deque[Speech] = deque()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._refused = False  # an utterance whose text is still coming
        self._closing = False
        self._count = 0

    def text(self, text: str, utterance: Utterance, *, word: bool = False, may_join: bool = False) -> None:
        """More text for the utterance under way, or for a new one in the manner of `utterance`.

        Where too many wait, a new one is a paragraph of the last of those if it `may_join`; else, or where it is wrong
        in another way, it is refused, once, with all the text of it that follows.
        """
        if self._refused:
            return  # as was told; what is left of it must not be spoken from its middle
        if self.writing is not None:
            self.writing.push(text, word=word)
        elif text.strip():  # nothing begins with nothing
            self._refused = True
            self._begin(text, utterance, word, may_join)
            self._refused = False

    def _begin(self, text: str, utterance: Utterance, word: bool, may_join: bool) -> None:
        if len(self._pending) >= MOST_PENDING:
            last = self._pending[-1]
            if not may_join or last.asked != utterance:
                raise BadRequest(f"{MOST_PENDING} utterances are waiting already; send this one later.")
            last.push(f"\n\n{text}")
            return
        speech = Speech(self._service, utterance, self._count)
        speech.push(text, word=word)
        self._count += 1
        self.writing = speech
        self._pending.append(speech)
        self._changed.set()

    def end_text(self) -> bool:
        """The utterance under way is complete; False where there is none."""
        writing, self.writing = self.writing, None
        refused, self._refused = self._refused, False
        if writing is not None:
            writing.text.end()
        return writing is not None or refused

    async def cancel(self) -> bool:
        """Stop at once, drop what waits; False where there was nothing. Nothing of it is emitted afterwards."""
        dropped, speaking = list(self._pending), self.speaking
        self._pending.clear()
        self.writing, self._refused = None, False
        if self._task is not None:
            await ended([self._task])
            self.speaking = None
        for speech in [*([speaking] if speaking else []), *dropped]:
            await self._emit(Cancelled(speech.number, round(speech.sent_s, 3)))
        return bool(speaking or dropped)

    def close(self) -> None:
        """`run` returns once everything that was begun is said."""
        self.end_text()
        self._closing = True
        self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is being said, or written."""
        return self.speaking is None and not self._pending

    async def run(self) -> None:
        """Speak utterance after utterance."""
        try:
            while True:
                while self._pending:
                    self.speaking = self._pending.popleft()
                    self._task = asyncio.create_task(self._speak(self.speaking))
                    await asyncio.wait([self._task])
                    self.speaking = None
                    if not self._task.cancelled():
                        await self._task  # raises what a broken connection did
                if self._closing:
                    return
                self._changed.clear()
                await self._changed.wait()
        finally:
            if self._task is not None:
                await ended([self._task])

    async def _speak(self, speech: Speech) -> None:
        try:
            await self._place()
            await speech.speak(self._emit, self.lead_s)
        except OrpheusError as error:  # what is still written of it is taken, and not spoken
            await self._emit(Failed(speech.number, error, partial=speech.sent_s > 0))
            await self._emit(Done(speech.number, speech.usage.segments))

    async def _place(self) -> None:
        """Wait a little for a place of the server's: a listener prefers a late word to none."""
        gives_up_s = time.monotonic() + PLACE_S
        while self._service.admission.full and time.monotonic() < gives_up_s:  # noqa: ASYNC110 - others leave
            await asyncio.sleep(0.05)
