"""Words → what a listener of unmute would have heard from a server of `/api/tts_streaming`, and when.

A model of the TTS client in kyutai-labs/unmute, with its timeouts and its bugs, so that a server that works with it
works with unmute: it retries unless it finds a server within 0.5 s, releases messages in real time but only when another
one arrives, and treats every surprise as the end of the session. Times are in seconds on the event loop's clock.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgpack
import websockets
from websockets.asyncio.client import ClientConnection, connect

from orpheus.playout import PlayoutClock

SAMPLE_RATE = 24_000  # Hz
LEAD_S = 0.32  # audio is released this much before it is due, and played at once
READY_S = 0.5  # timeout from connecting to Ready
ATTEMPTS = 5
STARTING_MESSAGES = 10  # Ready must be among these
FIELDS = {"Ready": (), "Audio": ("pcm",), "Text": ("text", "start_s", "stop_s"), "Error": ("message",)}

Message = dict[str, Any]


def now_s() -> float:
    return asyncio.get_running_loop().time()


class SessionKilled(Exception):
    """The conversation is over; the user sees this message in the browser."""


class AtCapacity(Exception):
    """An Error instead of Ready."""


@dataclass(order=True)
class _Held:
    """Ordered only by time, as in unmute: messages due at the same time come out in any order."""

    due_s: float
    message: Message = field(compare=False)


class RealTimeQueue:
    """Releases each message no earlier than its time. The clock starts with the first audio."""

    def __init__(self) -> None:
        self._heap: list[_Held] = []
        self._started_s: float | None = None

    def start(self) -> None:
        if self._started_s is None:
            self._started_s = now_s()

    def put(self, due_s: float, message: Message) -> None:
        heapq.heappush(self._heap, _Held(due_s, message))

    def due(self) -> list[Message]:
        """The messages whose time has come."""
        due = []
        while self._heap and self._started_s is not None and self._heap[0].due_s <= now_s() - self._started_s:
            due.append(heapq.heappop(self._heap).message)
        return due

    async def rest(self) -> AsyncIterator[Message]:
        """The remaining messages, each at its time. None if the clock never started."""
        while self._heap and self._started_s is not None:
            await asyncio.sleep(max(0.0, self._started_s + self._heap[0].due_s - now_s()))
            yield heapq.heappop(self._heap).message


@dataclass
class Turn:
    """What happened in one turn of the bot."""

    player: PlayoutClock = field(default_factory=PlayoutClock)
    # As released: the subtitles, and the LLM's memory of what it said.
    words: list[str] = field(default_factory=list)
    pcm: array[float] = field(default_factory=lambda: array("f"))  # as released
    released: list[tuple[float, Message]] = field(default_factory=list)
    received: list[tuple[float, Message]] = field(default_factory=list)
    sent: list[tuple[float, str]] = field(default_factory=list)  # words
    close_code: int | None = None
    dropped_s: float = 0.0  # audio received but never played
    ended_s: float = 0.0
    shutdown_s: float = 0.0  # how long closing the socket took

    @property
    def first_audio_s(self) -> float:
        """Seconds from the first word sent to the first audio released; inf without audio."""
        for at_s, message in self.released:
            if message["type"] == "Audio":
                return at_s - self.sent[0][0]
        return math.inf

    @property
    def received_s(self) -> float:
        """Seconds of audio received."""
        return sum(len(m["pcm"]) for _, m in self.received if m["type"] == "Audio") / SAMPLE_RATE

    @property
    def played_s(self) -> float:
        """Seconds of audio released."""
        return len(self.pcm) / SAMPLE_RATE


class Orchestrator:
    """unmute's orchestrator with one TTS server, and the sockets it forgot to close."""

    def __init__(self, url: str, voice: str | None = None) -> None:
        """`url` as in KYUTAI_TTS_URL, `ws://HOST:PORT`."""
        self._url = f"{url.replace('http', 'ws', 1)}/api/tts_streaming?format=PcmMessagePack"
        self._url += f"&voice={quote(voice, safe='')}" if voice else ""
        self._url += "&cfg_alpha=1.5"
        self.warnings = 0  # "Looking for the resources, expect some latency."
        self.leaked: list[ClientConnection] = []

    async def turn(
        self, words: AsyncIterator[str], *, interrupt_after_s: float | None = None, limit_s: float = 60
    ) -> Turn:
        """Speak `words`, interrupted `interrupt_after_s` after the first audio if that is given.

        Raises SessionKilled, or TimeoutError if the turn takes longer than `limit_s`.
        """
        socket = await self.find()
        turn = Turn()
        async with asyncio.timeout(limit_s):
            speaking = asyncio.create_task(_speak(socket, words, turn))
            playing = asyncio.create_task(_play(socket, turn))
            try:
                if interrupt_after_s is not None:
                    while not turn.released and not playing.done():  # noqa: ASYNC110 - a model, not a server
                        await asyncio.sleep(0.001)
                    await asyncio.wait([playing], timeout=interrupt_after_s)
                else:
                    await asyncio.wait([playing, speaking], return_when=asyncio.FIRST_EXCEPTION)
                if playing.done():
                    await playing
                if speaking.done():
                    await speaking
            finally:
                for task in (speaking, playing):
                    task.cancel()
                closing_s = now_s()
                await socket.close()
                turn.shutdown_s = now_s() - closing_s
                await asyncio.gather(speaking, playing, return_exceptions=True)
        turn.dropped_s = turn.received_s - turn.played_s
        return turn

    async def find(self) -> ClientConnection:
        """Connect to a server that answers Ready, in at most ATTEMPTS attempts."""
        wait_s = 0.05
        for attempt in range(ATTEMPTS):
            try:
                async with asyncio.timeout(READY_S):
                    return await self._start_up()
            except Exception as error:
                if attempt == ATTEMPTS - 1:
                    raise SessionKilled(_user_message(error)) from error
                self.warnings += 1
                await asyncio.sleep(wait_s)
                wait_s *= 1.5
        raise AssertionError

    async def _start_up(self) -> ClientConnection:
        headers = {"kyutai-api-key": "public_token"}
        socket = await connect(self._url, additional_headers=headers, proxy=None)
        try:
            for _ in range(STARTING_MESSAGES):
                message = _unpacked(await socket.recv())
                if message["type"] == "Ready":
                    return socket
                if message["type"] == "Error":
                    raise AtCapacity(message["message"])
            raise SessionKilled("Not supposed to happen.")
        except Exception:
            await socket.close()
            raise
        except asyncio.CancelledError:  # timed out: unmute never closes this one
            self.leaked.append(socket)
            raise


def _user_message(error: Exception) -> str:
    match error:
        case AtCapacity():
            return "Too many people are connected to service 'tts'. Please try again later."
        case TimeoutError():
            return "Service 'tts' timed out. Please try again later."
    return f"Internal server error :( Complain to Kyutai ({error!r})"


async def _speak(socket: ClientConnection, words: AsyncIterator[str], turn: Turn) -> None:
    try:
        async for word in words:
            if word := word.strip():
                await socket.send(msgpack.packb({"type": "Text", "text": word}))
                turn.sent.append((now_s(), word))
        if turn.sent:
            await socket.send(msgpack.packb({"type": "Eos"}))
    except websockets.ConnectionClosed as error:
        raise SessionKilled(f"Internal server error: closed while words were coming ({error})") from error


async def _play(socket: ClientConnection, turn: Turn) -> None:
    queue = RealTimeQueue()
    received = 0  # samples
    try:
        async for data in socket:
            message = _unpacked(data)
            if (
                message["type"] == "Audio"
            ):  # a list of floats takes so long to garbage-collect that audio would stall
                message["pcm"] = array("f", message["pcm"])
            turn.received.append((now_s(), message))
            if message["type"] == "Audio":
                queue.start()
                queue.put(received / SAMPLE_RATE - LEAD_S, message)
                received += len(message["pcm"])
            elif message["type"] == "Text":
                if (message["text"], message["start_s"], message["stop_s"]) == ("", 0, 0):
                    continue  # and does not release others
                queue.put(message["start_s"], message)
            _release(queue.due(), turn)
        turn.close_code = socket.close_code
    except websockets.ConnectionClosedError:
        turn.close_code = socket.close_code
        return  # whatever was not released yet is lost
    async for message in queue.rest():
        _release([message], turn)
    turn.ended_s = now_s()


def _release(messages: Sequence[Message], turn: Turn) -> None:
    for message in messages:
        turn.released.append((now_s(), message))
        if message["type"] == "Audio":
            turn.player.add(len(message["pcm"]) / SAMPLE_RATE, now_s())
            turn.pcm += message["pcm"]
        elif message["type"] == "Text":
            turn.words.append(message["text"])


def _unpacked(data: str | bytes) -> Message:
    """A message of a known type with all its fields; anything else ends the session."""
    try:
        message = msgpack.unpackb(data)
        fields = FIELDS[message["type"]]
        if all(name in message for name in fields) and not isinstance(message.get("pcm"), bytes):
            return dict(message)
    except (TypeError, KeyError, ValueError, msgpack.UnpackException):
        pass
    raise SessionKilled(f"Internal server error: {data[:60]!r} is not a message of this protocol")


async def at_pace(words: Sequence[str], words_per_s: float = 20.0) -> AsyncIterator[str]:
    """`words` at the pace of an LLM."""
    for word in words:
        yield word
        await asyncio.sleep(1 / words_per_s)
