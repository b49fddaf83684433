"""Somebody who talks to the agent over `WS /v1/realtime`: a microphone that is always open, and a loudspeaker.

Both run in real time, 20 ms at a time. What the agent sends is played as it would be by any client: until it is over, or
until the agent says that the human speaks. With `echo`, the microphone hears the loudspeaker too. Times are of
time.monotonic().
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.agent.recordings import RATE, Sound
from orpheus.playout import PlayoutClock

FRAME_S = 0.02
FRAME_SAMPLES = int(FRAME_S * RATE)
QUIET_S = 0.4  # without an event and without sound, until the agent has settled
UNDECIDED_S = 1.5  # the same, when it has told the end of a turn and not yet whether it was one
LIMIT_S = 30.0  # for anything that is waited for
ECHO_FRAMES = (
    4,
    6,
)  # from the loudspeaker to the microphone: directly, and by way of a wall at half the level
MINUS_20_DB = 0.1

Event = dict[str, Any]


class BrokenOff(Exception):
    """A conversation that went no further, in a sentence."""


@dataclass
class Heard:
    """One event, and when it came."""

    at_s: float
    event: Event

    @property
    def type(self) -> str:
        return str(self.event["type"])


@dataclass
class Answer:
    """One response, as it was received."""

    id: str
    created_s: float
    first_s: float | None = None  # its first audio
    last_s: float = 0.0  # its latest
    audio_s: float = 0.0
    status: str | None = None  # once it is done
    stages: dict[str, float | None] = field(default_factory=dict)  # milliseconds, as the agent tells them
    playout: PlayoutClock = field(default_factory=PlayoutClock)
    late_bytes: int = 0  # of audio, after the agent had been cut off


class Caller:
    """One conversation. Made by `calling`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._to_say: deque[tuple[NDArray[np.int16], asyncio.Future[float]]] = deque()
        self._played: deque[NDArray[np.int16]] = deque(maxlen=max(ECHO_FRAMES) + 1)
        self._loudspeaker = bytearray()
        self._cut: set[str] = set()
        self._changed = asyncio.Event()
        self.echo = 0.0  # of the loudspeaker's level
        self.heard: list[Heard] = []
        self.answers: dict[str, Answer] = {}
        self.late_s = 0.0  # longest that this program itself was behind with the microphone

    # What a trial does

    async def say(self, sound: Sound) -> tuple[float, float]:
        """Speak into the microphone; when the first and the last sample had been sent."""
        # The last sample ends a frame, so that it leaves when it is spoken.
        front = -len(sound.samples) % FRAME_SAMPLES
        frames = np.concatenate((np.zeros(front, np.int16), sound.samples)).reshape(-1, FRAME_SAMPLES)
        loop = asyncio.get_running_loop()
        sent: list[asyncio.Future[float]] = []
        for frame in frames:
            sent.append(loop.create_future())
            self._to_say.append((frame, sent[-1]))
        first_s = await sent[0] - (FRAME_SAMPLES - front) / RATE
        return first_s, await sent[-1]

    async def write(self, text: str) -> None:
        """A turn that is typed."""
        content = [{"type": "input_text", "text": text}]
        await self.send(
            "conversation.item.create", item={"type": "message", "role": "user", "content": content}
        )
        await self.send("response.create")

    async def send(self, type: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": type, **fields}))

    async def until(self, found: Callable[[], Any], what: str, within_s: float = LIMIT_S) -> None:
        """BrokenOff if it does not become true in time."""
        try:
            async with asyncio.timeout(within_s):
                while not found():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise BrokenOff(f"waited {within_s:g} s for {what}") from None

    async def settled(self) -> None:
        """Nothing is being answered, played or said, and has not been for a while."""
        quiet_from_s = time.monotonic()
        deadline_s = quiet_from_s + LIMIT_S
        while True:
            now_s, last = time.monotonic(), self.heard[-1]  # session.updated, at least
            if self.busy or last.type == "input_audio_buffer.speech_started":
                quiet_from_s = now_s
            enough_s = UNDECIDED_S if last.type == "input_audio_buffer.speech_stopped" else QUIET_S
            if now_s - max(quiet_from_s, last.at_s) >= enough_s:
                return
            if now_s > deadline_s:
                raise BrokenOff(f"the agent did not come to rest within {LIMIT_S:g} s")
            await asyncio.sleep(FRAME_S)

    async def hang_on(self) -> None:
        """Hear no more of the answer: the next trial need not wait for its end."""
        if self.answering:
            await self.send("response.cancel")
            await self.until(lambda: not self.answering, "a response to be cancelled")
        self._loudspeaker.clear()
        await self.send("output_audio_buffer.clear")

    @property
    def answering(self) -> bool:
        return any(answer.status is None for answer in self.answers.values())

    @property
    def busy(self) -> bool:
        return self.answering or bool(self._loudspeaker) or bool(self._to_say)

    @property
    def playing_s(self) -> float:
        """Of audio that is still to be played."""
        return len(self._loudspeaker) / 2 / RATE

    def since(self, moment: int, type: str) -> list[Heard]:
        """The events of a type after the first `moment` of all."""
        return [heard for heard in self.heard[moment:] if heard.type == type]

    # What runs by itself

    async def microphone(self) -> None:
        due_s = time.monotonic()
        silence = np.zeros(FRAME_SAMPLES, np.int16)
        while True:
            due_s += FRAME_S
            await asyncio.sleep(due_s - time.monotonic())
            self.late_s = max(self.late_s, time.monotonic() - due_s)
            playing = np.zeros(FRAME_SAMPLES, np.int16)
            data = np.frombuffer(bytes(self._loudspeaker[: 2 * FRAME_SAMPLES]), np.int16)
            del self._loudspeaker[: 2 * len(data)]
            playing[: len(data)] = data
            self._played.append(playing)
            frame, sent = self._to_say.popleft() if self._to_say else (silence, None)
            if self.echo:
                frame = np.clip(frame + self._echo(), -32768, 32767).astype(np.int16)
            await self.send("input_audio_buffer.append", audio=base64.b64encode(frame.tobytes()).decode())
            if sent is not None and not sent.done():
                sent.set_result(time.monotonic())
            if len(data) and not self._loudspeaker:
                self._changed.set()

    def _echo(self) -> NDArray[np.float64]:
        heard = np.zeros(FRAME_SAMPLES)
        for share, delay in zip((1.0, 0.5), ECHO_FRAMES, strict=True):
            if len(self._played) > delay:
                heard += self.echo * share * self._played[-1 - delay]
        return heard

    async def ears(self) -> None:
        async for message in self._socket:
            self._hear(Heard(time.monotonic(), json.loads(message)))
        raise BrokenOff("the agent closed the connection")

    def _hear(self, heard: Heard) -> None:
        event = heard.event
        match heard.type:
            case "rate_limits.updated":
                return
            case "input_audio_buffer.speech_started":
                self._loudspeaker.clear()
                self._cut |= self.answers.keys()
            case "response.created":
                id = event["response"]["id"]
                self.answers[id] = Answer(id, heard.at_s)
            case "response.output_audio.delta":
                self._play(heard)
            case "response.done":
                answer = self.answers[event["response"]["id"]]
                answer.status = event["response"]["status"]
                answer.stages = event["response"].get("orpheus") or {}
            case "error" if event["error"].get("code") != "response_cancel_not_active":  # it has just ended
                raise BrokenOff(f"the agent: {event['error']['message']}")
        if heard.type != "response.output_audio.delta":
            self.heard.append(heard)
        self._changed.set()

    def _play(self, heard: Heard) -> None:
        answer = self.answers[heard.event["response_id"]]
        pcm = base64.b64decode(heard.event["delta"])
        if answer.first_s is None:
            answer.first_s = heard.at_s
        answer.last_s = heard.at_s
        if answer.id in self._cut:
            answer.late_bytes += len(pcm)
            return
        answer.audio_s += len(pcm) / 2 / RATE
        answer.playout.add(len(pcm) / 2 / RATE, heard.at_s)
        self._loudspeaker += pcm


@contextlib.asynccontextmanager
async def calling(url: str, turns: dict[str, Any], voice: str = "tara") -> AsyncIterator[Caller]:
    """A conversation whose turns are told apart by `turns`, OpenAI's turn_detection. Raises BrokenOff."""
    pcm = {"type": "audio/pcm", "rate": RATE}
    hearing = {"format": pcm, "transcription": {"model": "whisper-1"}, "turn_detection": turns}
    session = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "audio": {"input": hearing, "output": {"format": pcm, "voice": voice}},
    }
    address = url.replace("http", "ws", 1) + "/v1/realtime"
    try:
        async with (
            connect(address, proxy=None, compression=None, max_size=None) as socket,
            asyncio.TaskGroup() as group,
        ):
            caller = Caller(socket)
            await caller.send("session.update", session=session)
            work = [group.create_task(one) for one in (caller.ears(), caller.microphone())]
            await caller.until(lambda: caller.since(0, "session.updated"), "the session")
            yield caller
            for task in work:
                task.cancel()
    except InvalidStatus as error:
        raise BrokenOff(f"refused with {error.response.status_code}") from error
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise (BrokenOff(str(first)) if isinstance(first, ConnectionClosed) else first) from None
