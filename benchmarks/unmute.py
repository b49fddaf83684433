"""One turn over `/api/tts_streaming` as an unmodified unmute takes it, and what its listener hears of it.

unmute tries five times for half a second to find its TTS server. It releases audio 0.32 s before it is due, but only
when a further message arrives; what is left after an orderly close follows in real time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgpack
import websockets
from websockets.asyncio.client import ClientConnection, connect

from orpheus.ops.bench.listening import RATE
from orpheus.playout import PlayoutClock

LEAD_S = 0.32
PATIENCE_S = 0.5  # from dialling to Ready
TRIALS = 5
LIMIT_S = 60.0  # of a turn


class BrokenOff(Exception):
    """The person at the browser sees this sentence, and the conversation is over."""


@dataclass
class Turn:
    """Times are of time.monotonic(), in seconds."""

    first_word_s: float = 0.0  # sent
    first_audio_s: float = 0.0  # released
    received: list[tuple[float, float]] = field(default_factory=list)  # when, and seconds of audio
    playout: PlayoutClock = field(default_factory=PlayoutClock)

    @property
    def latency_s(self) -> float:
        """From the first word to the first audio."""
        return self.first_audio_s - self.first_word_s

    def release(self, audio_s: float) -> None:
        now_s = time.monotonic()
        self.first_audio_s = self.first_audio_s or now_s
        self.playout.add(audio_s, now_s)


async def take_turn(url: str, words: AsyncIterator[str], *, leave_after_s: float | None = None) -> Turn:
    """Have `words` spoken; with `leave_after_s`, close that long after the first audio. Raises BrokenOff."""
    turn = Turn()
    socket = await _dial(f"{url.replace('http', 'ws', 1)}/api/tts_streaming?format=PcmMessagePack&voice=tara")
    speaking = asyncio.create_task(_speak(socket, words, turn))
    playing = asyncio.create_task(_play(socket, turn))
    try:
        async with asyncio.timeout(LIMIT_S):
            if leave_after_s is None:
                await asyncio.gather(speaking, playing)
            else:
                while not turn.first_audio_s and not playing.done():  # noqa: ASYNC110 - a client, not a server
                    await asyncio.sleep(0.001)
                await asyncio.wait([playing], timeout=leave_after_s)
    except websockets.ConnectionClosed as error:
        raise BrokenOff(f"closed in the middle of a turn: {error}") from error
    except TimeoutError as error:
        raise BrokenOff(f"a turn was not over after {LIMIT_S:g} s") from error
    finally:
        speaking.cancel()
        playing.cancel()
        await socket.close()
        await asyncio.gather(speaking, playing, return_exceptions=True)
    return turn


async def _dial(url: str) -> ClientConnection:
    """A connection whose server said Ready."""
    wait_s, reason = 0.05, ""
    for _ in range(TRIALS):
        try:
            async with asyncio.timeout(PATIENCE_S):
                socket = await connect(url, additional_headers={"kyutai-api-key": "public_token"}, proxy=None)
                try:
                    message = msgpack.unpackb(await socket.recv())
                    if message["type"] == "Ready":
                        return socket
                    reason = message["message"]
                except BaseException:
                    socket.transport.abort()
                    raise
                await socket.close()
        except (OSError, websockets.WebSocketException) as error:  # OSError: out of patience, too
            reason = str(error) or "not ready in time"
        await asyncio.sleep(wait_s)
        wait_s *= 1.5
    raise BrokenOff(f"no turn could begin: {reason}")


async def _speak(socket: ClientConnection, words: AsyncIterator[str], turn: Turn) -> None:
    async for word in words:
        await socket.send(msgpack.packb({"type": "Text", "text": word}))
        turn.first_word_s = turn.first_word_s or time.monotonic()
    await socket.send(msgpack.packb({"type": "Eos"}))


async def _play(socket: ClientConnection, turn: Turn) -> None:
    held: deque[tuple[float, float]] = deque()  # when due, and seconds of audio
    ends_s: float | None = None  # of all audio received
    async for data in socket:
        message = msgpack.unpackb(data)
        now_s = time.monotonic()
        if message["type"] == "Error":
            raise BrokenOff(message["message"])
        if message["type"] == "Audio":
            audio_s = len(message["pcm"]) / RATE
            turn.received.append((now_s, audio_s))
            ends_s = now_s if ends_s is None else ends_s
            held.append((ends_s - LEAD_S, audio_s))
            ends_s += audio_s
        elif message["type"] == "Text" and not message["text"]:
            continue  # releases nothing
        while held and held[0][0] <= now_s:
            turn.release(held.popleft()[1])
    for due_s, audio_s in held:
        await asyncio.sleep(due_s - time.monotonic())
        turn.release(audio_s)
