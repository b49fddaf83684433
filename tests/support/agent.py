"""A scripted agent: what is said is tones, a text each; what is thought is a list; and a client that checks every event.

The voice is the real one of the tests, over a scripted tier 1.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Annotated, Any

import numpy as np
from openai.types.realtime import RealtimeServerEvent
from pydantic import Field, TypeAdapter
from websockets.sync.client import ClientConnection

from orpheus.agent.audio import SAMPLE_RATE, Samples
from orpheus.agent.conversation import Ports
from orpheus.agent.hear import Heard
from orpheus.agent.think import Finished, Message, TextDelta, Thought, ToolCallDelta
from orpheus.agent.vad import FRAME_SAMPLES, VoiceActivity
from orpheus.errors import UpstreamError
from tests.support.waiting import come_within, eventually

OUT_RATE = 24_000
LEVEL = 0.3
STRICT: TypeAdapter[Any] = TypeAdapter(Annotated[RealtimeServerEvent, Field(discriminator="type")])
_BIN_HZ = SAMPLE_RATE / FRAME_SAMPLES
_OPEN_HZ, _OPEN = 3_000, 0.35  # an overtone, and its level: without one, it would be a hum


class Loudness(VoiceActivity):
    """Speech is whatever is loud enough."""

    def __init__(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def probability(self, frame: Samples) -> float:
        return 0.95 if float(np.sqrt(np.mean(frame**2))) > 0.003 else 0.02


class Speech:
    """Texts as tones: `say` makes one, and a recogniser knows it again, and how much of it there is."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[str, float]] = {}  # by the bin of its tone: the text, and its frames

    def say(self, text: str, ms: int = 960) -> bytes:
        """16-bit samples at 24 kHz."""
        known = [bin for bin, (other, _) in self._texts.items() if other == text]
        bin = known[0] if known else 12 + 4 * len(self._texts)
        self._texts[bin] = (text, ms / 32)
        time_s = np.arange(OUT_RATE * ms // 1000) / OUT_RATE
        spoken = np.sin(2 * np.pi * bin * _BIN_HZ * time_s) + _OPEN * np.sin(2 * np.pi * _OPEN_HZ * time_s)
        return pcm16(LEVEL * spoken)

    def text(self, samples: Samples) -> str:
        counts: dict[int, int] = {}
        for start in range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
            frame = samples[start : start + FRAME_SAMPLES]
            if float(np.sqrt(np.mean(frame**2))) < 0.05:
                continue
            spectrum = np.abs(np.fft.rfft(frame * np.hanning(FRAME_SAMPLES)))
            loudest = int(np.argmax(spectrum))
            bin = min(self._texts, key=lambda known: abs(known - loudest), default=-99)
            if abs(bin - loudest) <= 1:
                counts[bin] = counts.get(bin, 0) + 1
        said = []
        for bin, count in counts.items():
            if count < 3:  # where two tones meet
                continue
            text, frames = self._texts[bin]
            words = text.split(" ")
            share = 1.0 if count >= frames - 3 else count / frames
            said.append(" ".join(words[: math.ceil(share * len(words))]))
        return " ".join(said)


class ScriptedRecognizer:
    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        self.fail_next = 0
        self.fails = False
        self.heard: list[str] = []
        self.languages: list[str | None] = []
        self.pause_s = 0.0
        self.running = 0

    async def transcribe(
        self, samples: Samples, *, language: str | None = None, prompt: str | None = None
    ) -> Heard:
        self.running += 1
        try:
            await asyncio.sleep(self.pause_s)
        finally:
            self.running -= 1
        if self.fail_next or self.fails:
            self.fail_next = max(0, self.fail_next - 1)
            raise UpstreamError("The recogniser is away; try again.")
        text = self.speech.text(samples)
        self.heard.append(text)
        self.languages.append(language)
        return Heard(text, len(samples) / SAMPLE_RATE, 0.001)

    async def warm_up(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class ScriptedThinker:
    """Answers with the next of `answers`: strings, thoughts, seconds to wait, an error; the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[list[Any]] = [["Hello there, my friend."]]
        self.asked: list[list[Message]] = []
        self.options: list[dict[str, Any]] = []
        self.running = 0

    async def answer(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: Any = "auto",
        max_tokens: int | None = None,
        temperature: float | None = None,
        conversation: str = "",
    ) -> AsyncGenerator[Thought]:
        self.asked.append(list(messages))
        self.options.append(
            {"tools": tools, "tool_choice": tool_choice, "max_tokens": max_tokens, "temperature": temperature}
        )
        script = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.running += 1
        finished = False
        try:
            for step in script:
                match step:
                    case str():
                        yield TextDelta(step)
                    case int() | float():
                        await asyncio.sleep(step)
                    case Exception():
                        raise step
                    case _:
                        finished = finished or isinstance(step, Finished)
                        yield step
            if not finished:
                calls = any(isinstance(step, ToolCallDelta) for step in script)
                yield Finished("tool_calls" if calls else "stop", 12, 5)
        finally:
            self.running -= 1

    async def warm_up(self, messages: Sequence[Message]) -> None:
        pass

    async def aclose(self) -> None:
        pass

    @property
    def last(self) -> list[tuple[str, str]]:
        """The roles and texts of the last request, without the instructions."""
        return [(message.role, message.content) for message in self.asked[-1] if message.role != "system"]


class Script:
    """What a test sets and sees of the agent."""

    def __init__(self) -> None:
        self.speech = Speech()
        self.recognizer = ScriptedRecognizer(self.speech)
        self.thinker = ScriptedThinker()

    def ports(self) -> Ports:
        return Ports(Loudness, self.recognizer, self.thinker)


def pcm16(samples: Any) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def silence(ms: int) -> bytes:
    return bytes(2 * (OUT_RATE * ms // 1000))


class RealtimeClient:
    """A client that sends what it is told and holds every event against OpenAI's own models."""

    def __init__(self, socket: ClientConnection, script: Script) -> None:
        self.socket = socket
        self.script = script
        self.events: list[dict[str, Any]] = []

    def send(self, type: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type, **fields}))

    def update(self, **session: Any) -> dict[str, Any]:
        self.send("session.update", session={"type": "realtime", **session})
        updated: dict[str, Any] = self.until("session.updated")[-1]["session"]
        return updated

    def hear(self, audio: bytes, chunk_ms: int = 100) -> None:
        step = 2 * OUT_RATE * chunk_ms // 1000
        for start in range(0, len(audio), step):
            self.send(
                "input_audio_buffer.append", audio=base64.b64encode(audio[start : start + step]).decode()
            )

    def say(self, text: str, ms: int = 960, after_ms: int = 700) -> None:
        """Speech, and the silence that ends a turn."""
        self.hear(self.script.speech.say(text, ms) + silence(after_ms))

    def next(self, timeout_s: float = 15) -> dict[str, Any]:
        raw = self.socket.recv(timeout_s)
        assert isinstance(raw, str)
        assert len(raw) < 1_000_000
        event: dict[str, Any] = json.loads(raw)
        STRICT.validate_python(event)
        self.events.append(event)
        return event

    def until(self, type: str, timeout_s: float = 15, **fields: Any) -> list[dict[str, Any]]:
        """The events up to the next of this type with these fields."""
        events: list[dict[str, Any]] = []
        deadline_s = time.monotonic() + timeout_s
        while True:
            assert time.monotonic() < deadline_s, f"no {type} after {types(events)[-20:]}"
            events.append(self.next(timeout_s))
            found = events[-1]
            if found["type"] == type and all(found.get(name) == value for name, value in fields.items()):
                return events

    def quiet(self, seconds: float = 0.4) -> list[dict[str, Any]]:
        """What comes within that time."""
        return come_within(seconds, self.next)

    def flush(self) -> list[dict[str, Any]]:
        """What comes until everything that was sent is dealt with."""
        self.send("nonsense", event_id="flush")
        events = []
        while True:
            event = self.next()
            if event["type"] == "error" and event["error"]["event_id"] == "flush":
                return events
            events.append(event)

    def answer(self) -> dict[str, Any]:
        """The next response, complete."""
        response: dict[str, Any] = self.until("response.done")[-1]["response"]
        return response

    def idle(self) -> None:
        """Wait until no stage of the agent runs."""
        eventually(lambda: not (self.script.thinker.running or self.script.recognizer.running))


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def without_deltas(events: list[dict[str, Any]]) -> list[str]:
    return [type for type in types(events) if not type.endswith(".delta")]


def audio_of(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        base64.b64decode(event["delta"]) for event in events if event["type"] == "response.output_audio.delta"
    )


def transcript_of(events: list[dict[str, Any]]) -> str:
    return "".join(
        event["delta"] for event in events if event["type"] == "response.output_audio_transcript.delta"
    )


Talk = Callable[..., RealtimeClient]
