"""The utterances of one connection, spoken one after another → events in the order a listener needs them.

Every WebSocket protocol (sockets/) turns its messages into calls here and these events into its messages. Audio is
sent with a bounded lead over real time, and a word never before its audio.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from orpheus import tracing
from orpheus.errors import BadRequest, OrpheusError
from orpheus.server import request_context
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import MAX_STREAMED_CHARS, SpeechService
from orpheus.tasks import cancel_and_wait
from orpheus.tts.usage import Usage
from orpheus.tts.word_timing import Word, WordTimer

MAX_PENDING = 8  # utterances that may wait behind the one that is spoken
LEAD_S = (
    3.0  # audio sent ahead of real time: more outlasts a worse network, less is thrown away at a barge-in
)
ADMISSION_S = 5.0  # how long an utterance waits to be admitted; later its listener would have given up


@dataclass(frozen=True)
class PartStarted:
    """The audio of a part comes next."""

    utterance: int
    part: int
    text: str
    sample_rate: int  # Hz


@dataclass(frozen=True)
class Audio:
    data: bytes
    duration_s: float  # of playout, speed included


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
class UtteranceDone:
    """The utterance was spoken, or failed, or had nothing to say; nothing more of it follows.

    None for a text that was refused: it did not become an utterance, but its client waits for an end of it.
    """

    utterance: int | None
    parts: int
    left_out_chars: int = 0  # letters that the voice cannot speak


@dataclass(frozen=True)
class UtteranceFailed:
    utterance: int
    error: OrpheusError
    partial: bool  # some of its audio was sent


@dataclass(frozen=True)
class UtteranceCancelled:
    utterance: int
    sent_s: float  # of audio


Event = PartStarted | Audio | WordStarted | PartDone | UtteranceDone | UtteranceFailed | UtteranceCancelled
Emit = Callable[[Event], Awaitable[None]]


class Utterance:
    """One utterance: its text arrives while it is spoken."""

    def __init__(self, service: SpeechService, request: SpeechRequest, number: int) -> None:
        """BadRequest if the request is wrong, NotReady while the service loads."""
        self.number = number
        self.request = request
        self.params = service.params(request, patient=True)
        self.text = service.pipeline.segmenter(self.params, max_chars=MAX_STREAMED_CHARS)
        self.usage = Usage()
        self.sent_s = 0.0  # audio handed to the connection
        self._service = service
        self._has_text = False
        self._parts = 0  # begun

    def add_text(self, text: str, *, word: bool = False) -> None:
        """Add text. TooLarge if it gets too long."""
        if not self._has_text and text.strip():
            self._has_text = True
            self.usage.started_s = time.monotonic()  # latencies count from the first text
        if word:
            self.text.push_word(text)
        else:
            self.text.push(text)
        if (context := request_context.current.get()) is not None:
            context.add_text(text)

    async def speak(self, emit: Emit, lead_s: float, span: str) -> None:
        """Emit all of its events; `lead_s` bounds how far audio runs ahead of real time, 0 is no bound.

        `span` is what traces call it.

        An error is emitted after the events of what was spoken before it.
        """
        params = self.params
        try:
            with tracing.span(span, number=self.number, voice=params.voice.id, format=params.format):
                await self._speak(emit, lead_s)
        except OrpheusError as error:  # text of it that still arrives is accepted and not spoken
            await emit(UtteranceFailed(self.number, error, partial=self.sent_s > 0))
        await emit(UtteranceDone(self.number, self._parts, self.text.left_out_chars))

    async def _speak(self, emit: Emit, lead_s: float) -> None:
        pipeline = self._service.pipeline
        rate = pipeline.playout_rate(self.params)
        words = WordTimer(self.text, self.usage, pipeline.sample_rate, speed=self.params.speed)
        part, size, sent = -1, 0, 0
        part_start_s = 0.0

        async def end_part(*, failed: bool = False) -> None:
            if part >= 0:
                await emit(PartDone(self.number, part, size, self.sent_s - part_start_s, failed))

        try:
            async with aclosing(self._encoded()) as chunks:
                async for number, chunk in chunks:
                    if number != part:
                        await end_part()
                        part, size, part_start_s = number, 0, self.sent_s
                        text = self._text_of(part)
                        await emit(PartStarted(self.number, part, text, self.params.sample_rate))
                        self._parts += 1
                    duration_s, sent = (self.usage.samples - sent) / rate, self.usage.samples
                    if lead_s and self.sent_s:
                        await asyncio.sleep(self.usage.playout.buffered_s() - lead_s)
                    for word in words.due(sent):
                        await emit(WordStarted(self.number, word))
                    size += len(chunk)
                    await emit(Audio(chunk, duration_s))
                    self.sent_s += duration_s
            for word in words.rest():
                await emit(WordStarted(self.number, word))
        except OrpheusError:
            await end_part(failed=True)
            raise
        await end_part()

    async def _encoded(self) -> AsyncGenerator[tuple[int, bytes]]:
        """Its encoded parts. A text with nothing to say has none, takes no place and waits for none."""
        if not await self.text.has_next():
            return
        # A listener prefers a late reply to none.
        gives_up_s = time.monotonic() + ADMISSION_S
        while self._service.admission.full and time.monotonic() < gives_up_s:  # noqa: ASYNC110 - others leave
            await asyncio.sleep(0.05)
        async with aclosing(self._service.encoded_parts(self.text, self.params, self.usage)) as chunks:
            async for part, chunk in chunks:
                yield part, chunk

    def _text_of(self, part: int) -> str:
        if self.params.split == "none":
            return "".join(span.text for span in self.text.spans).strip()
        usage = self.usage
        first, *following = usage.part_starts[part:]
        end = following[0] if following else len(usage.segment_starts)
        return " ".join(segment.text for segment in usage.segments[first:end])


class _Refused:
    """Texts that were refused, in their place among the utterances: each ends when it would have been spoken."""

    count = 1


class UtteranceQueue:
    """The utterances of one connection. `run` speaks them; the other methods are called as its client sends messages."""

    def __init__(
        self, service: SpeechService, emit: Emit, lead_s: float | None = None, *, span: str = "utterance"
    ) -> None:
        self.lead_s = LEAD_S if lead_s is None else lead_s
        self.writing: Utterance | None = None  # the utterance whose text is still coming
        self.speaking: Utterance | None = None
        self._service = service
        self._emit = emit
        self._span = span
        self._pending: deque[Utterance | _Refused] = deque()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._in_text = False  # text came that is not complete, refused or not
        self._refusing = False  # what comes, up to its end, is not spoken
        self._closing = False
        self.ended = False  # the client said that no more text comes
        self._count = 0

    def add_text(
        self, text: str, request: SpeechRequest, *, word: bool = False, may_join: bool = False
    ) -> None:
        """Add text to the current utterance, or start a new one as `request` asks.

        When too many wait, a new one becomes a paragraph of the last of them if it `may_join`. Otherwise, or if it
        is invalid in another way, it is refused once, and the rest of its text is ignored.
        """
        if self.ended:
            return  # whoever said so expects an end
        self._in_text = self._in_text or bool(text.strip())
        if self._refusing:
            return  # reported already; the rest must not be spoken from its middle
        self._refusing = True
        if self.writing is not None:
            self.writing.add_text(text, word=word)
        elif text.strip():  # an utterance does not start with nothing
            self._begin(text, request, word, may_join)
        self._refusing = False

    def _begin(self, text: str, request: SpeechRequest, word: bool, may_join: bool) -> None:
        waiting = [pending for pending in self._pending if isinstance(pending, Utterance)]
        if len(waiting) >= MAX_PENDING:
            last = waiting[-1]
            if not may_join or last.request != request:
                raise BadRequest(f"{MAX_PENDING} utterances are already waiting; send this one later.")
            last.add_text(f"\n\n{text}")
            return
        utterance = Utterance(self._service, request, self._count)
        utterance.add_text(text, word=word)
        self._count += 1
        self.writing = utterance
        self._pending.append(utterance)
        self._changed.set()

    def end_text(self) -> bool:
        """Complete the current utterance, or the text that was refused; False if there is neither."""
        writing, self.writing = self.writing, None
        refused, self._refusing = self._refusing, False
        self._in_text = False
        if writing is not None:
            writing.text.end()
        elif refused:
            if self._pending and isinstance(last := self._pending[-1], _Refused):
                last.count += 1
            else:
                self._pending.append(_Refused())
            self._changed.set()
        return writing is not None or refused

    async def cancel(self) -> bool:
        """Stop at once and drop what is waiting; False if there was nothing. No more of it is emitted afterwards."""
        dropped = [pending for pending in self._pending if isinstance(pending, Utterance)]
        speaking = self.speaking
        self._pending.clear()
        self.writing, self._refusing, self._in_text = None, False, False
        if self._task is not None:
            await cancel_and_wait([self._task])
            self.speaking = None
        for utterance in [*([speaking] if speaking else []), *dropped]:
            await self._emit(UtteranceCancelled(utterance.number, round(utterance.sent_s, 3)))
        return bool(speaking or dropped)

    def refuse_next(self, refused: bool) -> None:
        """Whether the next utterance's text is ignored up to its end. Text that has begun to come is left as it is."""
        if not self._in_text:
            self._refusing = refused

    def close(self, *, final: bool = True) -> None:
        """Make `run` return once everything that was started is spoken. If `final`, later text is ignored."""
        if self._in_text:
            self.end_text()
        self._closing = True
        self.ended = self.ended or final
        self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is being spoken or written."""
        return self.speaking is None and not self._pending

    async def run(self) -> None:
        """Speak one utterance after another."""
        try:
            while True:
                while self._pending:
                    following = self._pending.popleft()
                    if isinstance(following, _Refused):
                        for _ in range(following.count):
                            await self._emit(UtteranceDone(None, 0))
                        continue
                    self.speaking = following
                    self._task = asyncio.create_task(following.speak(self._emit, self.lead_s, self._span))
                    await asyncio.wait([self._task])
                    self.speaking = None
                    if not self._task.cancelled():
                        await self._task  # raises the error of a broken connection
                if self._closing:
                    return
                self._changed.clear()
                await self._changed.wait()
        finally:
            if self._task is not None:
                await cancel_and_wait([self._task])
