"""One conversation: audio in, events out. Read this file first.

    samples ─▶ voice activity ─▶ turns ─▶ transcript ─▶ item ─▶ response (response.py) ─▶ words and audio

Nothing here knows a protocol: an adapter (sockets/) calls the methods as its client's messages come, and makes messages
of the events (events.py). Methods change the state and tell events at once, without waiting, so that events are in an
order that a listener can follow; what takes time (a transcript, a response) is a task that does the same when it is
ready.

Turns. A transcript, and an answer to it, are begun when the human pauses, and taken back if they go on; nothing of them
is told before the turn is over. While the agent can be heard, sound is first only a candidate for a turn: it becomes one,
and cuts the agent off, once it has said something that is more than a listener's "mm-hmm" and not the agent's own echo.
A "yes" is one where the agent has asked, up to a second before its question ends; a hum is one only there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from orpheus import tracing
from orpheus.agent import events as told
from orpheus.agent.audio import SAMPLE_RATE, SampleBuffer, Samples
from orpheus.agent.echo import WINDOW_MS, is_echo, likeness
from orpheus.agent.events import Ask, Config, Emit
from orpheus.agent.hear import Heard, LocalAgreement, Recognizer
from orpheus.agent.history import History, Item, Part, Spoken, messages
from orpheus.agent.metrics import AgentMetrics
from orpheus.agent.murmur import MM_HMM, is_murmur
from orpheus.agent.playback import Playback
from orpheus.agent.response import Clock, Response
from orpheus.agent.think import Message, Thinker
from orpheus.agent.turns import (
    START_FRAMES,
    SilenceTimeout,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
    TurnEvent,
    is_backchannel,
    is_barge_in,
    is_doubtful,
    is_murmur_text,
)
from orpheus.agent.vad import FRAME_MS, FRAME_SAMPLES, VoiceActivity
from orpheus.errors import BadRequest, EngineError, OrpheusError, TooLarge
from orpheus.server.service import MAX_STREAMED_CHARS, SpeechService
from orpheus.tasks import cancel_and_wait
from orpheus.text.sentences import CLOSING

log = logging.getLogger(__name__)

MAX_BUFFER_S = 327  # of audio that the client commits itself: OpenAI's 15 MiB of 24 kHz samples
MIN_COMMIT_MS = 100  # of audio, as OpenAI asks
KEPT_MS = 500  # of audio before a turn, besides its prefix: speech is noticed that late
MAX_SIDE_RESPONSES = 4  # outside the conversation, at once
MAX_SAYINGS = 8  # that wait behind the one being said
FRAMES_AT_ONCE = 16  # heard before others have their turn
MAX_UNHEARD = 8  # turns that wait for their transcripts: more than anybody can say meanwhile

# While the agent is heard: a transcript of what was said so far, and a look whether it is an echo.
PROBE_MS = 320  # of speech, before the first
PROBE_AGAIN_MS = 160  # of speech, between two

PARTIAL_MS = 600  # of speech between two transcripts of it, if they are wanted
MAX_PARTIAL_S = 15  # of a turn: each starts at its beginning
EARLY_S = 1.0  # before its end, a question can be answered
MISSING_S = 2.0  # without audio in the middle of a turn, after which it is over

_SILENT = Message("user", "(The user has said nothing for a while.)")


@dataclass(frozen=True)
class Ports:
    """What a conversation hears and thinks with."""

    voice_activity: Callable[[], VoiceActivity]  # a new one for each conversation
    recognizer: Recognizer
    thinker: Thinker


class _Turn:
    """Something the human says, from when it was noticed until it is an item or nothing."""

    def __init__(self, item_id: str, start_ms: int) -> None:
        self.item_id = item_id
        self.start_ms = start_ms
        self.end_ms: int | None = None  # of its last sound, as far as is known
        self.stopped_ms = 0  # where the quiet after it was long enough
        self.told = False  # the client knows of it
        self.committed = False  # by the client
        self.stopped = False
        self.began_s = time.monotonic() - START_FRAMES * FRAME_MS / 1000  # its first sound
        self.clock = Clock()
        self.hearing: asyncio.Task[None] | None = None
        self.heard: Heard | None = None
        self.error: OrpheusError | None = None
        self.draft: Response | None = None
        self.prompt: list[Message] = []  # that the draft answers
        self.probed: str | None = None  # what a probe has told so far; None: nothing yet
        self.probed_likely: float | None = None
        self.probing: asyncio.Task[None] | None = None
        self.probed_ms = 0  # of speech when it was last begun
        self.run_ms = 0  # of speech since the last pause
        self.before_ms = 0  # of speech before it
        self.likeness = 0.0  # to the agent's voice
        self.comparing = False  # its likeness is being found out
        self.is_echo = False
        self.is_asked_for = False  # the agent has asked, and waits for an answer
        self.agreement = LocalAgreement()
        self.partial_ms = 0  # of the turn when it was last transcribed

    @property
    def ready(self) -> bool:
        return self.stopped and (self.heard is not None or self.error is not None)


class Conversation:
    """Used from one event loop. `run` it; `aclose` it at the end."""

    def __init__(
        self,
        ports: Ports,
        service: SpeechService,
        emit: Emit,
        room: Callable[[], Awaitable[None]],
        metrics: AgentMetrics,
        config: Config | None = None,
    ) -> None:
        """`emit` takes events without waiting; `room` returns once the listener's connection takes more of them."""
        self.id = self.new_id("conv")
        self.config = config or Config()
        self.history = History()
        self._ports = ports
        self._service = service
        self._emit = emit
        self._room = room
        self._metrics = metrics
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()

        self._buffer = SampleBuffer()
        self._next_frame = 0  # the first sample that was not looked at
        self._activity = ports.voice_activity()
        self._detector = TurnDetector(self.config.turns)
        self._base_ms = 0  # of audio that the detector was not shown
        self._heard_s = 0.0  # when audio came last
        self._turn: _Turn | None = None  # being said
        self._ended: deque[_Turn] = deque()  # said, and being transcribed

        self._active: Response | None = None  # the one of the conversation
        self._side: set[Response] = set()  # outside it
        self._deferred: Ask | None = None  # asked for while the human speaks
        self._unanswered = False  # a turn was not answered, as the human spoke on
        self._verbatim = False  # whether the last response of the conversation was one
        self._sayings: deque[Ask] = deque()  # behind the one being said
        self._playback = Playback()

    # Life

    async def run(self) -> None:
        """Returns only by cancellation; raises what nobody expected of a task."""
        self._start(self._watch_microphone())
        await self._failure

    async def aclose(self) -> None:
        """Stop everything, and wait until it has ended."""
        for response in [*([self._active] if self._active else []), *self._side]:
            response.stop()
        self._active = None
        self._side.clear()
        await cancel_and_wait([*self._tasks])
        if not self._failure.done():
            self._failure.cancel()
        elif not self._failure.cancelled():
            self._failure.exception()  # seen

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{uuid.uuid4().hex[:24]}"

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._watch_task(task)
        return task

    def _watch_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._failure.done():
            self._failure.set_exception(error)

    def configure(self, config: Config) -> None:
        """Go on by `config`: at once what is heard, with the next response what is said."""
        self.config = config
        self._detector.configure(config.turns)
        self._unanswered = self._unanswered and config.turns.create_response
        if self._turn is not None and not self._detector.speaking:  # turns are the client's from now on
            self._drop_turn(self._turn)
            self._answer_deferred()

    # Audio in

    @property
    def position_ms(self) -> int:
        """Of the audio that was looked at."""
        return self._next_frame * 1000 // SAMPLE_RATE

    async def hear(self, samples: Samples) -> None:
        """Add audio from the microphone, mono at SAMPLE_RATE. BadRequest if too much of it waits to be committed."""
        waiting = self._buffer.end - self._buffer.start + len(samples)
        if self.config.turns.kind is None and waiting > MAX_BUFFER_S * SAMPLE_RATE:
            raise BadRequest(
                f"The input audio buffer is full at {MAX_BUFFER_S} s: commit or clear it.",
                param="audio",
                code="input_audio_buffer_full",
            )
        self._buffer.add(samples)
        self._heard_s = math.inf  # until all of it is
        frames = 0
        while self._buffer.end - self._next_frame >= FRAME_SAMPLES:
            self._hear_frame()
            frames += 1
            if frames % FRAMES_AT_ONCE == 0:
                await asyncio.sleep(0)
                await self._room()
            while len(self._ended) >= MAX_UNHEARD:  # noqa: ASYNC110 - of who sends faster than people speak
                await asyncio.sleep(FRAME_MS / 1000)
        self._heard_s = time.monotonic()

    def _hear_frame(self) -> None:
        start, self._next_frame = self._next_frame, self._next_frame + FRAME_SAMPLES
        detector = self._detector
        if detector.config.kind is None:
            self._base_ms += FRAME_MS
            return
        if self._is_answering:
            detector.restart_timeout()
        probability = self._activity.probability(self._buffer.slice(start, self._next_frame))
        for event in detector.add(probability):
            self._on_turn_event(event)
        if self._turn is not None:
            self._watch_turn(self._turn)
        kept_ms = detector.config.prefix_padding_ms + KEPT_MS
        needed = self._next_frame - kept_ms * SAMPLE_RATE // 1000
        self._buffer.drop_before(min(needed, _samples(self._turn.start_ms)) if self._turn else needed)

    def _drop_turn(self, turn: _Turn) -> None:
        """It is no turn: the client has cleared its audio, or will commit it."""
        self._turn = None
        self._take_back(turn)
        if turn.probing is not None:
            turn.probing.cancel()

    async def _watch_microphone(self) -> None:
        """A client may send nothing more in mid-word, as when its microphone is taken away: what it sent is the turn."""
        while True:
            await asyncio.sleep(MISSING_S / 4)
            if self._turn is not None and time.monotonic() - self._heard_s >= MISSING_S:
                self._detector.reset()
                self._end_turn(self._turn, self.position_ms)

    # Turns

    def _on_turn_event(self, event: TurnEvent) -> None:
        turn = self._turn
        match event:
            case SpeechStarted(start_ms):
                self._begin_turn(start_ms + self._base_ms)
            case SpeechPaused(end_ms) if turn is not None:
                turn.end_ms = end_ms + self._base_ms
                turn.before_ms, turn.run_ms = turn.before_ms + turn.run_ms, 0
                self._note_end(turn)
                self._transcribe(turn)
            case SpeechResumed() if turn is not None:
                if not turn.told and turn.hearing is not None:
                    # What it will tell of the words so far is as good as a probe.
                    turn.probing, turn.hearing = turn.hearing, None
                self._take_back(turn)
            case SpeechStopped(end_ms) if turn is not None:
                self._end_turn(turn, end_ms + self._base_ms)
            case SilenceTimeout():
                self._speak_into_silence()

    def _begin_turn(self, start_ms: int) -> None:
        turn = self._turn = _Turn(self.new_id("item"), max(0, start_ms))
        if not self._is_answering:
            self._tell_turn(turn)

    def _watch_turn(self, turn: _Turn) -> None:
        """With every frame of a turn."""
        if not turn.told:
            self._decide(turn)
        elif self.config.partials:
            self._transcribe_so_far(turn)

    def _decide(self, turn: _Turn) -> None:
        """Whether what is heard while the agent speaks is a turn by now."""
        if turn.end_ms is not None:
            return  # its words are being recognised
        turn.run_ms = self._detector.speech_ms()
        speech_ms = turn.before_ms + turn.run_ms
        if speech_ms < PROBE_MS:
            return
        if speech_ms - turn.probed_ms >= PROBE_AGAIN_MS and (turn.probing is None or turn.probing.done()):
            turn.probed_ms = speech_ms
            samples = self._buffer.slice(_samples(turn.start_ms), self._next_frame)
            turn.comparing = True
            turn.probing = self._start(self._probe(turn, samples))
        self._barge_in(turn)

    def _barge_in(self, turn: _Turn) -> None:
        """If what was said over the agent is meant to stop it, do."""
        if turn.comparing or turn.is_echo or turn.probed == "":  # sound without words, however long it is
            return
        if is_barge_in(turn.before_ms + turn.run_ms, turn.probed, turn.probed_likely):
            self._tell_turn(turn)

    async def _probe(self, turn: _Turn, samples: Samples) -> None:
        await self._look_for_echo(turn, samples)
        if turn.is_echo or turn.told or turn is not self._turn:
            return
        if is_murmur(samples):  # told by its sound, long before it is recognised
            self._take_probe(turn, Heard(MM_HMM, len(samples) / SAMPLE_RATE, 0.0))
            return
        self._barge_in(turn)
        try:
            heard = await self._recognize(samples)
        except OrpheusError:
            return  # its length will tell
        self._take_probe(turn, heard)

    def _take_probe(self, turn: _Turn, heard: Heard) -> None:
        if turn is not self._turn or turn.told:
            return
        turn.probed, turn.probed_likely = heard.text.strip(), heard.likely
        turn.is_echo = self._is_echo(turn, heard.text)
        self._barge_in(turn)

    async def _look_for_echo(self, turn: _Turn, samples: Samples) -> None:
        """Whether the end of its sound, as far as it goes, is the agent's own."""
        turn.comparing = True
        try:
            heard = samples[-WINDOW_MS * SAMPLE_RATE // 1000 :]
            turn.likeness = await asyncio.to_thread(likeness, heard, self._playback.sound())
        finally:
            turn.comparing = False
        turn.is_echo = self._is_echo(turn)

    def _is_echo(self, turn: _Turn, text: str = "") -> bool:
        """Whether this is the agent's own voice, as far as is known; `text` is what was recognised of it."""
        return is_echo(turn.likeness, text, self._playback.text, already=turn.is_echo)

    def _tell_turn(self, turn: _Turn) -> None:
        """It is a turn: the client is told, and the agent stops."""
        turn.told = True
        interrupted = self._detector.config.interrupt_response and self._is_answering
        stopped = self._silence() if interrupted else None
        self.tell(told.UserStarted(turn.item_id, turn.start_ms, interrupted))
        if interrupted:
            self._metrics.interruptions.inc()
        if stopped is not None:
            stopped.close("turn_detected")

    def _note_end(self, turn: _Turn) -> None:
        assert turn.end_ms is not None
        turn.clock.end_s = time.monotonic() - (self.position_ms - turn.end_ms) / 1000

    def _take_back(self, turn: _Turn) -> None:
        """The human goes on: nothing was told of what was prepared."""
        if turn.hearing is not None:
            turn.hearing.cancel()
        if turn.draft is not None:
            turn.draft.stop()
        turn.end_ms = turn.hearing = turn.heard = turn.error = turn.draft = None

    def _end_turn(self, turn: _Turn, end_ms: int) -> None:
        """It is over; `end_ms` is where its audio ends, the quiet after it included."""
        if turn.end_ms is None:
            turn.end_ms = end_ms
            self._note_end(turn)
        turn.clock.vad_ms = self.position_ms - turn.end_ms
        turn.stopped = True
        self._turn = None
        if turn.probing is not None:
            turn.probing.cancel()
        if turn.told and not turn.committed:
            self.tell(told.UserStopped(turn.item_id, end_ms))
        turn.stopped_ms = end_ms
        self._ended.append(turn)
        if turn.hearing is None:
            self._transcribe(turn)
        self._finish_turns()

    def _transcribe(self, turn: _Turn) -> None:
        assert turn.end_ms is not None
        if turn.probing is not None:
            turn.probing.cancel()
        samples = self._buffer.slice(_samples(turn.start_ms), _samples(turn.end_ms))
        turn.hearing = self._start(self._hear_turn(turn, samples))

    async def _hear_turn(self, turn: _Turn, samples: Samples) -> None:
        try:
            if not (turn.told or turn.committed):
                await self._look_for_echo(turn, samples)
            silence = Heard("", len(samples) / SAMPLE_RATE, 0.0)
            with tracing.span("hear", audio_s=round(len(samples) / SAMPLE_RATE, 3)):
                heard = silence if turn.is_echo else await self._recognize(samples)
        except OrpheusError as error:
            if turn.hearing is not asyncio.current_task():
                return
            log.warning("the recognizer failed: %s", error)
            self._metrics.failures.labels("stt").inc()
            turn.error = error
        else:
            if turn.hearing is not asyncio.current_task():  # the human has gone on
                self._take_probe(turn, heard)
                return
            turn.heard = heard
            turn.is_echo = turn.is_echo or (not turn.told and self._is_echo(turn, heard.text))
            turn.clock.stt_ms = round(heard.took_s * 1000, 1)
            if not turn.stopped:
                self._detector.set_transcript(heard.text)
                if self._is_turn(turn):
                    if not turn.told:
                        self._tell_turn(turn)
                    self._draft(turn)
        self._finish_turns()

    async def _recognize(self, samples: Samples) -> Heard:
        """A transcript, tried twice; of a hum, what is hummed and not the words that it was taken for."""
        language, prompt = self.config.language, self.config.prompt
        for attempt in (1, 2):
            try:
                heard = await self._ports.recognizer.transcribe(samples, language=language, prompt=prompt)
                return replace(heard, text=MM_HMM) if heard.text and is_murmur(samples, heard) else heard
            except OrpheusError:
                if attempt == 2:
                    raise
            except Exception as error:  # of a library, deep inside
                if attempt == 2:
                    log.exception("unexpected error of the recognizer")
                    raise EngineError("The recognizer failed; say it again.") from error
        raise AssertionError

    def _transcribe_so_far(self, turn: _Turn) -> None:
        """While it is said: for who wants to read along."""
        said_ms = self.position_ms - turn.start_ms
        busy = turn.hearing is not None or (turn.probing is not None and not turn.probing.done())
        if busy or said_ms - turn.partial_ms < PARTIAL_MS or said_ms > MAX_PARTIAL_S * 1000:
            return
        turn.partial_ms = said_ms
        turn.probing = self._start(self._hear_so_far(turn))

    async def _hear_so_far(self, turn: _Turn) -> None:
        samples = self._buffer.slice(_samples(turn.start_ms), self._next_frame)
        try:
            heard = await self._recognize(samples)
        except OrpheusError:
            return  # the whole turn's transcript will tell
        if text := turn.agreement.update(heard.text):
            self.tell(told.TranscriptAdded(turn.item_id, text))

    def _is_turn(self, turn: _Turn) -> bool:
        """Whether what was recognised is to be taken as said to the agent."""
        text = turn.heard.text.strip() if turn.heard else ""
        turn.is_asked_for = turn.is_asked_for or self._has_asked()
        if not text or (is_murmur_text(text) and not turn.is_asked_for):
            return False
        if turn.told or turn.is_echo:
            return turn.told
        assert turn.heard is not None
        murmured = is_backchannel(text) or is_doubtful(turn.before_ms, text, turn.heard.likely)
        return not murmured or self._is_reply(turn)

    def _has_asked(self) -> bool:
        """Whether the last that was said is a question of the agent's."""
        last = self.history.last
        return (
            last is not None and last.role == "assistant" and last.text.rstrip(CLOSING).endswith(("?", "？"))
        )

    def _is_reply(self, turn: _Turn) -> bool:
        """Whether a "yes" is said to the agent and not while it goes on: after its end, or at the end of its question."""
        ends_s = self._playback.ends_s
        if self._active is not None or ends_s is None:
            return self._active is None
        return turn.began_s >= ends_s - (EARLY_S if turn.is_asked_for else 0.0)

    def _finish_turns(self) -> None:
        """Make items of the turns that are transcribed, in order."""
        clock: Clock | None = None
        while self._ended and self._ended[0].ready:
            turn = self._ended.popleft()
            clock = turn.clock
            self._metrics.turns.labels(self._finish(turn)).inc()
        self._answer_deferred(clock)

    def _finish(self, turn: _Turn) -> str:
        text = turn.heard.text.strip() if turn.heard is not None else ""
        if not turn.committed and turn.error is None and not self._is_turn(turn):
            if turn.draft is not None:
                turn.draft.stop()
            if turn.told:
                self.tell(told.InputCleared())
            return "echo" if turn.is_echo else "backchannel" if text else "noise"
        long = is_barge_in(turn.before_ms, None)
        if turn.error is not None and not (turn.told or turn.committed or long):
            self.tell(told.Failed(turn.error))  # too short to stop the agent for
            return "failed"
        if not turn.told and not turn.committed:
            self._tell_turn(turn)
            self.tell(told.UserStopped(turn.item_id, turn.stopped_ms))
        if turn.committed:
            if turn.heard is not None:
                self.history.transcribe(turn.item_id, text)
        else:
            part = Part("audio", text if turn.heard else None)
            self._commit_item(Item(turn.item_id, role="user", content=(part,)))
        if turn.error is not None:
            self.tell(told.TranscriptFailed(turn.item_id, turn.error))
            self.tell(told.Failed(turn.error))
            return "failed"
        assert turn.heard is not None
        self.tell(told.TranscriptDone(turn.item_id, text, turn.heard.audio_s))
        if turn.committed:
            return "said"
        self._answer(turn)
        return "said"

    def _commit_item(self, item: Item) -> None:
        previous = self.history.add(item)
        self.tell(told.InputCommitted(item.id, previous))
        self.tell(told.ItemAdded(item, previous))
        self.tell(told.ItemDone(item, previous))

    # Audio, by the client's word

    @property
    def hears_speech(self) -> bool:
        """Whether a turn is being said."""
        return self._turn is not None

    def commit(self) -> None:
        """Make an item of the audio that waits. BadRequest if there is next to none."""
        start_ms = self._turn.start_ms if self._turn is not None else self._buffer.start * 1000 // SAMPLE_RATE
        end_ms = self._buffer.end * 1000 // SAMPLE_RATE
        if end_ms - start_ms < MIN_COMMIT_MS:
            raise BadRequest(
                f"Error committing input audio buffer: buffer too small. Expected at least {MIN_COMMIT_MS}ms of "
                f"audio, but buffer only has {max(0, end_ms - start_ms):.2f}ms of audio.",
                code="input_audio_buffer_commit_empty",
            )
        turn = self._turn or _Turn(self.new_id("item"), start_ms)
        self._take_back(turn)
        if turn.told:
            self.tell(told.UserStopped(turn.item_id, end_ms))
        turn.committed, turn.is_echo = True, False
        self._commit_item(Item(turn.item_id, role="user", content=(Part("audio"),)))
        self._end_turn(turn, end_ms)
        self._empty_buffer()

    def clear(self) -> None:
        """Forget the audio that waits, and what is being said."""
        if self._turn is not None:
            self._drop_turn(self._turn)
        self._empty_buffer()
        self.tell(told.InputCleared())
        self._answer_deferred()

    def forget(self) -> None:
        """Begin anew: nothing that was said so far is known, or will be answered."""
        self.interrupt()
        self._deferred, self._unanswered = None, False
        while self._ended:
            self._take_back(self._ended.popleft())
        self.clear()
        for item in list(self.history):
            self.delete_item(item.id)

    def _empty_buffer(self) -> None:
        self._next_frame = self._buffer.end
        self._buffer.drop_before(self._buffer.end)
        self._base_ms = self.position_ms - self._detector.position_ms
        self._detector.reset()
        self._activity.reset()

    def _speak_into_silence(self) -> None:
        if self._turn is not None or self._ended or self._is_answering:
            self._detector.restart_timeout()
            return
        item = Item(self.new_id("item"), role="user", content=(Part("audio", ""),))
        limit_ms = self._detector.config.idle_timeout_ms or 0
        self.tell(told.IdleTimeout(item.id, max(0, self.position_ms - limit_ms), self.position_ms))
        self._commit_item(item)
        ask = Ask(self.config)
        self._begin_response(ask, [*self._messages(ask), _SILENT], Clock())

    # Items, by the client's word

    def add_item(self, item: Item, spoken: Spoken | None = None) -> None:
        """Of an answer; see `create_item`."""
        previous = self.history.add(item, spoken=spoken)
        self.tell(told.ItemAdded(item, previous))

    def end_item(self, item: Item) -> None:
        if item.id in self.history:  # the client may have deleted it meanwhile
            self.history.put(item)
            self.tell(told.ItemDone(item, self.history.before(item.id)))

    def create_item(self, item: Item, after: str | None = None, samples: Samples | None = None) -> None:
        """Add an item of the client's, whose text is to be heard in `samples`, if given.

        BadRequest as `History.add`, or if too many wait for their transcripts.
        """
        if samples is not None and len(self._ended) >= MAX_UNHEARD:
            raise BadRequest(
                f"{MAX_UNHEARD} turns are still being transcribed: send this one later.", param="item"
            )
        previous = self.history.add(item, after)
        self.tell(told.ItemAdded(item, previous))
        self.tell(told.ItemDone(item, previous))
        if samples is not None:
            turn = _Turn(item.id, self.position_ms)
            turn.committed = turn.stopped = True
            self._ended.append(turn)
            turn.hearing = self._start(self._hear_turn(turn, samples))

    def delete_item(self, id: str) -> None:
        """BadRequest if there is no such item."""
        self.history.delete(id)
        self.tell(told.ItemDeleted(id))

    def truncate(self, id: str, audio_end_ms: int) -> None:
        """Only so much of an answer was heard; beyond its end is all of it. BadRequest if it is not a spoken answer."""
        spoken = self.history.spoken(self.history.get(id).id)
        if spoken is None:
            raise BadRequest("Only the audio of an assistant's message can be truncated.", param="item_id")
        for later, unheard in self._playback.stop_in(id):
            self._cut(later, unheard, 0.0)
        self.history.cut(id, audio_end_ms / 1000)
        self.tell(told.ItemTruncated(id, min(max(0, audio_end_ms), round(spoken.sent_s * 1000))))

    # Responses

    @property
    def _is_answering(self) -> bool:
        """Whether an answer is being prepared or heard."""
        return self._active is not None or self._playback.is_heard

    def respond(self, ask: Ask) -> None:
        """What a client asks for. BadRequest if there is an active response.

        While the human speaks, or is being transcribed, it waits: it will answer that too. And while something is still
        being spoken that a function was called after.
        """
        if not ask.kept:
            if len(self._side) >= MAX_SIDE_RESPONSES:
                raise BadRequest(
                    f"{MAX_SIDE_RESPONSES} responses outside the conversation are in progress: wait for one.",
                    code="conversation_already_has_active_response",
                )
            self._begin_response(ask, self._messages(ask), Clock())
            return
        busy = self._active is not None and not self._active.awaits_outputs
        if busy or self._deferred is not None:
            active = f" ({self._active.id})" if self._active else ""
            raise BadRequest(
                f"Conversation already has an active response in progress{active}. Wait until the response is "
                "finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        self._deferred = ask
        self._answer_deferred()

    def cancel(self, response_id: str | None = None) -> None:
        """BadRequest if there is no such response in progress."""
        side = next((response for response in self._side if response.id == response_id), None)
        if side is not None:
            self._side.discard(side)
            side.stop()
            side.close("client_cancelled")
            return
        active = self._active
        if active is None and response_id is None and self._deferred is not None:  # begun for its events
            deferred, self._deferred = self._deferred, None
            active = self._begin_response(deferred, [], Clock())
        if active is None or response_id not in (None, active.id):
            raise BadRequest(
                "Cancellation failed: no active response found", code="response_cancel_not_active"
            )
        self._active = None
        self._sayings.clear()
        active.stop()
        active.close("client_cancelled")
        self._answer_deferred()

    def say(self, text: str) -> None:
        """Have this spoken as it is, at once: what the agent was saying is cut off, unless it was told to say that too.

        BadRequest if too many texts wait, TooLarge if it is too long. What has nothing to say is ignored.
        """
        if not text.strip():
            return
        if len(text) > MAX_STREAMED_CHARS:
            raise TooLarge(f"The text has more than {MAX_STREAMED_CHARS} characters: say it in parts.")
        ask = Ask(self.config, verbatim=text)
        if not self._verbatim:
            self.interrupt()
        if self._active is None:
            self._begin_response(ask, [], Clock())
        elif len(self._sayings) < MAX_SAYINGS:
            self._sayings.append(ask)
        else:
            raise BadRequest(f"{MAX_SAYINGS} texts are already waiting to be said; send this one later.")

    def interrupt(self) -> None:
        """Make the agent fall silent."""
        speaks = self._is_answering
        stopped = self._silence()
        if speaks:
            self.tell(told.OutputCleared())
        if stopped is not None:
            stopped.close("client_cancelled")

    def silence(self) -> None:
        """The client has stopped playing: what was not heard by now never will be."""
        self._stop_playback()

    def tell(self, event: told.Event) -> None:
        if isinstance(event, told.ResponseDone):
            self._metrics.add(event.response.timings)
        self._emit(event)

    def play(self, item_id: str, spoken: Spoken, pcm: bytes, duration_s: float) -> None:
        """Audio of an answer goes to the listener."""
        self._playback.add(item_id, spoken, pcm, duration_s)

    def _messages(self, ask: Ask, said: str = "") -> list[Message]:
        if ask.input is not None:
            return messages(ask.config.instructions, ask.input)
        so_far = self.history.messages(ask.config.instructions)
        return [*so_far, Message("user", said)] if said else so_far

    def _begin_response(
        self, ask: Ask, prompt: list[Message], clock: Clock, *, draft: bool = False
    ) -> Response:
        response = Response(
            self._service,
            self._ports.thinker,
            self,
            ask,
            prompt,
            conversation=self.id,
            clock=clock,
            room=self._room_for_answer,
            on_end=self._response_ended,
            draft=draft,
        )
        self._watch_task(response.task)
        if not ask.kept:
            self._side.add(response)
        elif not draft:
            self._activate(response)
        return response

    def _activate(self, response: Response) -> None:
        self._active = response
        self._unanswered = False
        self._verbatim = response.ask.verbatim is not None

    async def _room_for_answer(self) -> None:
        """Nothing of an answer that was not begun to be heard is sent while it is unclear whether the human goes on."""
        while (  # noqa: ASYNC110 - a frame of audio ends it, or the turn does
            self._turn is not None
            and not self._turn.told
            and self._active is not None
            and not self._active.sent_audio
        ):
            await asyncio.sleep(FRAME_MS / 1000)
        await self._room()

    def _draft(self, turn: _Turn) -> None:
        """Begin to answer a turn that may not be over."""
        if (
            not self._detector.config.create_response
            or self._deferred is not None
            or self._active is not None
            or self._ended
        ):
            return
        assert turn.heard is not None
        ask = Ask(self.config)
        turn.prompt = self._messages(ask, turn.heard.text.strip())
        turn.draft = self._begin_response(ask, turn.prompt, turn.clock, draft=True)

    def _answer(self, turn: _Turn) -> None:
        """Answer a turn that is an item by now."""
        draft = turn.draft
        wanted = self._detector.config.create_response
        speaks = any(other.told for other in (*self._ended, *([self._turn] if self._turn else [])))
        if (
            draft is not None
            and wanted
            and not speaks
            and self._active is None
            and self._deferred is None
            and draft.ask.config == self.config
            and turn.prompt == self._messages(draft.ask)  # the client may have changed an item meanwhile
        ):
            self._activate(draft)
            draft.release()
            return
        if draft is not None:
            draft.stop()
        if not wanted or self._deferred is not None:
            return
        if speaks:  # what is being said may turn out to be nothing
            self._unanswered = True
            return
        ask = Ask(self.config)
        if self._active is not None:  # which the human was not to interrupt
            self._deferred = ask
        else:
            self._begin_response(ask, self._messages(ask), turn.clock)

    def _answer_deferred(self, clock: Clock | None = None) -> None:
        """Begin the response that was asked for, unless the human is speaking or the agent is."""
        speaks = self._turn is not None and self._turn.told
        if self._active is not None or speaks or self._ended:
            return
        ask, self._deferred = self._deferred, None
        if ask is None and self._unanswered:
            ask = Ask(self.config)
        if ask is not None:
            self._begin_response(ask, self._messages(ask), clock or Clock())

    def _response_ended(self, response: Response) -> None:
        if response.failed_stage is not None:
            self._metrics.failures.labels(response.failed_stage).inc()
        self._side.discard(response)
        if self._active is response:
            self._active = None
            if self._sayings:
                self._begin_response(self._sayings.popleft(), [], Clock())
            else:
                self._answer_deferred()

    def _silence(self) -> Response | None:
        """Stop what the agent is saying, and note what was heard of it; the response that was stopped, if one was."""
        active, self._active = self._active, None
        self._sayings.clear()
        if active is not None:
            active.stop()
        self._stop_playback()
        return active

    def _stop_playback(self) -> None:
        for item_id, spoken, heard_s in self._playback.stop():
            self._cut(item_id, spoken, heard_s)

    def _cut(self, item_id: str, spoken: Spoken, heard_s: float) -> None:
        if item_id in self.history:
            self.history.cut(item_id, heard_s)
        else:  # the client has deleted it, or it is no part of the conversation
            spoken.cut(heard_s)


def _samples(position_ms: int) -> int:
    return position_ms * SAMPLE_RATE // 1000
