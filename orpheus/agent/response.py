"""One response: messages → the language model → text and calls → the pair → words and audio, as they come.

A draft is begun before it is certain that the human has finished: what it would tell is held until `release`, and nobody
learns of it if it is dropped. Once a response is stopped, nothing more of it is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

from orpheus import tracing
from orpheus.agent import events as told
from orpheus.agent.events import OUTPUT_RATE, Ask, ResponseState, ResponseStatus, Timings
from orpheus.agent.history import Item, Part, Spoken
from orpheus.agent.phrases import in_language
from orpheus.agent.think import Finished, Message, TextDelta, Thinker, ToolCallDelta
from orpheus.errors import GenerationFailed, OrpheusError, TooLarge
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.server.utterance_queue import Audio, Event, UtteranceFailed, UtteranceQueue, WordStarted
from orpheus.tasks import cancel_and_wait

log = logging.getLogger(__name__)

Status = Literal["in_progress", "completed", "incomplete"]
MAX_CALLS = 32  # of functions in one response
MAX_ARGUMENTS_CHARS = 64 * 1024  # of each

# Said when the language model fails, in the language of the voice.
APOLOGIES = {
    "en": "Sorry, I cannot think of an answer right now.",
    "fr": "Désolé, je n'arrive pas à répondre pour le moment.",
    "de": "Entschuldigung, ich kann gerade nicht antworten.",
    "es": "Lo siento, ahora mismo no puedo responder.",
    "it": "Mi dispiace, in questo momento non riesco a rispondere.",
    "ko": "죄송합니다. 지금은 대답할 수 없습니다.",
    "hi": "माफ़ कीजिए, मैं अभी जवाब नहीं दे पा रहा हूँ।",
    "zh": "抱歉，我现在无法回答。",
}


class Teller(Protocol):
    """The conversation, as a response needs it."""

    def tell(self, event: told.Event) -> None: ...

    def add_item(self, item: Item, spoken: Spoken | None) -> None:
        """An item of the answer begins; it becomes part of the conversation."""

    def end_item(self, item: Item) -> None:
        """It is complete, or cut off."""

    def play(self, item_id: str, spoken: Spoken, pcm: bytes, duration_s: float) -> None:
        """Audio goes to the listener."""

    def new_id(self, prefix: str) -> str: ...


@dataclass
class Clock:
    """When things happened, in seconds of `time.monotonic`."""

    end_s: float | None = None  # of the human's speech
    vad_ms: float | None = None
    stt_ms: float | None = None
    asked_s: float = 0.0
    first_token_s: float | None = None
    first_audio_s: float | None = None  # sent
    first_made_s: float | None = None  # by the voice
    first_clause_s: float | None = None


@dataclass
class _Output:
    """An item of the answer, as it grows."""

    index: int
    item: Item
    done: bool = False


class Response:
    """Begins when it is made; `task` ends with it, and raises only what nobody expected."""

    def __init__(
        self,
        service: SpeechService,
        thinker: Thinker,
        teller: Teller,
        ask: Ask,
        messages: list[Message],
        *,
        conversation: str,
        clock: Clock,
        room: Callable[[], Awaitable[None]],
        on_end: Callable[[Response], None],
        draft: bool = False,
    ) -> None:
        """`room` returns once the listener's connection takes more; `on_end` is called when the response is complete."""
        self.id = teller.new_id("resp")
        self.ask = ask
        self.clock = clock
        self.error: OrpheusError | None = None
        self.failed_stage: str | None = None
        self.sent_audio = False
        self._service = service
        self._thinker = thinker
        self._teller = teller
        self._conversation = conversation
        self._room = room
        self._on_end = on_end
        self._held: list[Callable[[], None]] | None = [] if draft else None
        self._over = False
        self._outputs: list[_Output] = []
        self._message: _Output | None = None
        self._spoken = Spoken()
        self._calls: dict[int, _Output] = {}
        self._queue = UtteranceQueue(service, self._hear_voice, span="speak")
        self._finished: Finished | None = None
        self._cut_short = False  # by a limit of ours
        config = ask.config
        self._kind = config.modality
        self._speaks = config.modality == "audio"
        self._request = SpeechRequest(
            input="",
            voice=config.voice,
            response_format="pcm",
            sample_rate=OUTPUT_RATE,
            speed=config.speed,
        )
        self.clock.asked_s = time.monotonic()
        if not draft:
            teller.tell(told.ResponseStarted(ResponseState(self.id, ask)))
        self.task = asyncio.create_task(self._run(messages))

    @property
    def awaits_outputs(self) -> bool:
        """Whether all that is left is to be spoken, and functions were called: who ran them goes on from there."""
        return bool(self._calls) and all(call.done for call in self._calls.values())

    def state(self, status: ResponseStatus = "in_progress", reason: str | None = None) -> ResponseState:
        finished = self._finished
        return ResponseState(
            self.id,
            self.ask,
            status,
            reason,
            self.error,
            tuple(output.item for output in self._outputs),
            finished.prompt_tokens if finished else 0,
            finished.completion_tokens if finished else 0,
            self._timings(),
        )

    def release(self) -> None:
        """The draft is wanted: tell what was held, and the rest as it comes."""
        held, self._held = self._held, None
        self._teller.tell(told.ResponseStarted(ResponseState(self.id, self.ask)))
        for action in held or ():
            action()

    def stop(self) -> None:
        """Tell nothing more, and stop every stage at once."""
        self._over = True
        self.task.cancel()

    def close(self, reason: str) -> None:
        """After `stop`: tell how far it came."""
        if self._speaks and self._spoken.cut_s is None:  # of what was not spoken, nothing was heard
            self._spoken.cut(self._spoken.sent_s)
        self._end_outputs("incomplete")
        self._teller.tell(told.ResponseDone(self.state("cancelled", reason)))

    # The stages

    async def _run(self, messages: list[Message]) -> None:
        with tracing.span("response"):
            speaking = asyncio.create_task(self._queue.run())
            try:
                with tracing.span("think"):
                    await self._think(messages)
                self._queue.close()
                await speaking
            finally:
                await cancel_and_wait([speaking])
            self._do(self._complete)
            tracing.note(self.error, **asdict(self._timings()))

    async def _think(self, messages: list[Message]) -> None:
        config = self.ask.config
        try:
            if self._speaks:
                with suppress(
                    OrpheusError
                ):  # which the first text will meet: it is still to be thought and told
                    await self._service.loaded()
            if self.ask.verbatim is not None:
                self._say(self.ask.verbatim)
                return
            answer = self._thinker.answer(
                messages,
                tools=config.tools,
                tool_choice=config.tool_choice,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                conversation=self._conversation,
            )
            async with aclosing(answer) as thoughts:
                async for thought in thoughts:
                    match thought:
                        case TextDelta(text):
                            self._say(text)
                        case ToolCallDelta():
                            self._call(thought)
                        case Finished():
                            self._finished = thought
                    if self._cut_short:
                        break
                    if self._held is None:
                        await self._room()
            self._do(self._end_calls)  # whoever runs them need not wait for what is still being said
        except OrpheusError as error:
            log.warning("the language model failed: %s", error)
            tracing.note(error)
            self._fail("llm", error)
            self._say(f"{' ' if self._spoken.text else ''}{self._apology()}")

    def _apology(self) -> str:
        with suppress(OrpheusError):  # of a voice that there is not, which was told when it was to speak
            language = self._service.voices.find(self.ask.config.voice).language
            return in_language(APOLOGIES, language)
        return APOLOGIES["en"]

    def _say(self, text: str) -> None:
        if not text:
            return
        if self.clock.first_token_s is None:
            self.clock.first_token_s = time.monotonic()
        if self._message is None:
            if not text.strip():
                return
            self._message = self._open_message()
        self._spoken.text += text
        if not self._speaks:
            self._tell_text(self._spoken.rest())
            return
        try:
            self._queue.add_text(text, self._request)
        except TooLarge:
            self._cut_short = True
        except OrpheusError as error:
            self._fail("tts", error)

    def _open_message(self) -> _Output:
        item = Item(self._teller.new_id("item"), status="in_progress", role="assistant")
        output = self._open(item, self._spoken if self._speaks else None)
        self._tell(told.PartAdded(self.id, output.index, item.id, Part(self._kind, "")))
        return output

    def _call(self, delta: ToolCallDelta) -> None:
        if self.clock.first_token_s is None:
            self.clock.first_token_s = time.monotonic()
        output = self._calls.get(delta.index)
        if output is None:
            if len(self._calls) >= MAX_CALLS:
                return
            item = Item(
                self._teller.new_id("item"),
                "function_call",
                "in_progress",
                call_id=delta.id or self._teller.new_id("call"),
                name=delta.name or "",
            )
            output = self._calls[delta.index] = self._open(item, None)
        if delta.arguments:
            arguments = output.item.arguments + delta.arguments
            if len(arguments) > MAX_ARGUMENTS_CHARS:
                self._cut_short = True
                return
            output.item = replace(output.item, arguments=arguments)
            self._tell(told.ArgumentsAdded(self.id, output.index, output.item, delta.arguments))

    async def _hear_voice(self, event: Event) -> None:
        """What the utterance queue emits."""
        message = self._message
        assert message is not None
        match event:
            case WordStarted(_, word):
                self._do(lambda: self._tell_text(self._spoken.word(word)))
            case Audio(data, duration_s):
                if self._held is None:
                    await self._room()
                if self.clock.first_made_s is None:
                    self._note_first_audio()
                self._do(lambda: self._send(message, data, duration_s))
            case UtteranceFailed():
                log.warning("the voice failed: %s", event.error)
                self._fail("tts", event.error)

    def _note_first_audio(self) -> None:
        self.clock.first_made_s = time.monotonic()
        usage = self._queue.speaking.usage if self._queue.speaking else None
        if usage is not None and usage.first_segment_s is not None:
            self.clock.first_clause_s = usage.started_s + usage.first_segment_s

    def _send(self, message: _Output, data: bytes, duration_s: float) -> None:
        if not self.sent_audio:
            self.sent_audio = True
            self.clock.first_audio_s = time.monotonic()
        if not data:
            return
        self._teller.play(message.item.id, self._spoken, data, duration_s)
        self._teller.tell(told.AudioAdded(self.id, message.index, message.item.id, data))

    # What is told

    def _do(self, action: Callable[[], None]) -> None:
        if self._over:
            return
        if self._held is not None:
            self._held.append(action)
        else:
            action()

    def _tell(self, event: told.Event) -> None:
        self._do(lambda: self._teller.tell(event))

    def _tell_text(self, text: str) -> None:
        message = self._message
        if text and message is not None:
            self._tell(told.TextAdded(self.id, message.index, message.item.id, self._kind, text))

    def _fail(self, stage: str, error: OrpheusError) -> None:
        self.error = self.error or error
        self.failed_stage = self.failed_stage or stage
        self._tell(told.Failed(error))

    def _open(self, item: Item, spoken: Spoken | None) -> _Output:
        output = _Output(len(self._outputs), item)
        self._outputs.append(output)
        self._tell(told.OutputAdded(self.id, output.index, item))
        if self.ask.kept:
            self._do(lambda: self._teller.add_item(item, spoken))
        return output

    def _complete(self) -> None:
        """All is said."""
        self._spoken.complete = True
        self._tell_text(self._spoken.rest())
        reason: str | None = None
        status: ResponseStatus = "completed"
        if self.error is not None:
            status = "failed"
        elif self._is_cut_short:
            status, reason = "incomplete", "max_output_tokens"
        elif self._finished is None and not self._outputs:
            self.error, status = GenerationFailed("The language model gave no answer; ask again."), "failed"
        self._end_outputs("completed" if status == "completed" else "incomplete")
        self._over = True
        self._teller.tell(told.ResponseDone(self.state(status, reason)))
        self._on_end(self)

    @property
    def _is_cut_short(self) -> bool:
        return self._cut_short or (self._finished is not None and self._finished.reason == "length")

    def _end_calls(self) -> None:
        for output in self._calls.values():
            self._end(output, "incomplete" if self._is_cut_short else "completed")

    def _end_outputs(self, status: Status) -> None:
        for output in self._outputs:
            if not output.done:
                self._end(output, status)

    def _end(self, output: _Output, status: Status) -> None:
        output.done = True
        item = replace(output.item, status=status)
        if item.kind == "function_call":
            output.item = item
            self._teller.tell(told.ArgumentsDone(self.id, output.index, item))
        else:
            part = Part(self._kind, self._spoken.text[: self._spoken.told])
            self._teller.tell(told.PartDone(self.id, output.index, item.id, part, cut=self._over))
            heard = part.text if self._spoken.cut_s is None else self._spoken.heard
            output.item = replace(item, content=(replace(part, text=heard),))
        if self.ask.kept:
            self._teller.end_item(output.item)
        self._teller.tell(told.OutputDone(self.id, output.index, output.item))

    def _timings(self) -> Timings:
        clock = self.clock
        if self.ask.verbatim is not None:
            return Timings()
        return Timings(
            vad_ms=clock.vad_ms,
            stt_ms=clock.stt_ms,
            llm_first_token_ms=_ms(clock.asked_s, clock.first_token_s),
            first_clause_ms=_ms(clock.first_token_s, clock.first_clause_s),
            first_audio_ms=_ms(clock.first_clause_s, clock.first_made_s),
            end_to_audio_ms=_ms(clock.end_s, clock.first_audio_s),
        )


def _ms(since_s: float | None, until_s: float | None) -> float | None:
    if since_s is None or until_s is None:
        return None
    return round(max(0.0, until_s - since_s) * 1000, 1)
