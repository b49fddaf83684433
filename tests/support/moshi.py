"""A model of Moshi's web page (kyutai-labs/moshi, client/), which PersonaPlex's is made from, with the rules by which it
fails: it throws at a message it does not know, sends nothing before the handshake, closes after ten seconds without a
frame, and its player throws away what it has too much of.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from orpheus.agent.opus import OggOpusReader, OggOpusWriter

OUT_RATE = 24_000
CHUNK_S = 0.04  # two frames of 20 ms, as the page's recorder sends
LOUD = 0.01


class UnknownMessage(Exception):
    """The page throws, and the conversation is over."""


class Player:
    """The page's audio worklet: starts with 80 ms, and cuts back to 90 ms what reaches its limit. Seconds."""

    def __init__(self) -> None:
        self.dropped_s = 0.0
        self.received_s = 0.0
        self.lags = 0
        self._buffered_s = 0.0
        self._limit_s = 0.1
        self._playing = False
        self._at_s = time.monotonic()

    def add(self, duration_s: float) -> None:
        now_s = time.monotonic()
        if self._playing:
            self._buffered_s -= now_s - self._at_s
            if self._buffered_s <= 0:
                self._buffered_s, self._playing = 0.0, False
                self.lags += 1
        self._at_s = now_s
        self._buffered_s += duration_s
        self.received_s += duration_s
        self._playing = self._playing or self._buffered_s >= 0.08
        if self._buffered_s >= self._limit_s:
            self.dropped_s += max(0.0, self._buffered_s - 0.09)
            self._buffered_s = min(self._buffered_s, 0.09)
            self._limit_s = min(0.9, self._limit_s + 0.1)


class Page:
    """One conversation. `sound` is all that was heard, at 24 kHz."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.kinds: list[int] = []
        self.pieces: list[str] = []
        self.errors: list[str] = []
        self.metadata: list[Any] = []
        self.sound: NDArray[np.float32] = np.zeros(0, np.float32)
        self.longest_quiet_s = 0.0
        self.player = Player()
        self.problem: Exception | None = None
        self.connected = asyncio.Event()
        self._reader = OggOpusReader(OUT_RATE)
        self._writer = OggOpusWriter()
        self._voice: deque[NDArray[np.int16]] = deque()

    async def send(self, kind: int, payload: bytes = b"") -> None:
        await self.socket.send(bytes([kind]) + payload)

    def speak(self, pcm16: bytes) -> None:
        """Into the microphone: 16-bit samples at 24 kHz."""
        size = round(CHUNK_S * OUT_RATE)
        sound = np.frombuffer(pcm16, "<i2")
        self._voice.extend(sound[start : start + size] for start in range(0, len(sound), size))

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def loud_s(self) -> float:
        """Seconds of sound that is not silence."""
        return (
            float(np.mean(np.abs(self.sound) > LOUD) * len(self.sound) / OUT_RATE) if len(self.sound) else 0.0
        )

    async def until(self, done: Callable[[], Any], timeout_s: float = 15) -> None:
        async with asyncio.timeout(timeout_s):
            while not done():
                if self.problem is not None:
                    raise self.problem
                await asyncio.sleep(0.005)

    async def microphone(self) -> None:
        """In real time, from the handshake on."""
        await self.connected.wait()
        quiet = np.zeros(round(CHUNK_S * OUT_RATE), np.int16)
        due_s = time.monotonic()
        try:
            while True:
                pages = self._writer.write(self._voice.popleft() if self._voice else quiet)
                await self.send(1, pages)
                due_s += CHUNK_S
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        except ConnectionClosed:
            pass

    async def read(self) -> None:
        last_s = time.monotonic()
        try:
            async for message in self.socket:
                now_s = time.monotonic()
                self.longest_quiet_s, last_s = max(self.longest_quiet_s, now_s - last_s), now_s
                if isinstance(message, str):
                    raise UnknownMessage(message[:200])
                self._take(message)
        except ConnectionClosed:
            pass
        except Exception as error:
            self.problem = error
            raise

    def _take(self, message: bytes) -> None:
        kind, payload = message[0], message[1:]
        self.kinds.append(kind)
        match kind:
            case 0:
                self.connected.set()
            case 1:
                self.player.add(0.02 * sum(1 for _ in _pages(payload)))
                self.sound = np.concatenate([self.sound, *self._reader.add(payload)])
            case 2:
                self.pieces.append(payload.decode())
            case 3 if payload and payload[0] <= 3:
                pass
            case 4:
                self.metadata.append(json.loads(payload))
            case 5:
                self.errors.append(payload.decode())
            case 6:
                pass
            case _:
                raise UnknownMessage(f"{kind} {payload[:80]!r}")


def _pages(data: bytes) -> list[bytes]:
    """Pages of audio, not the two headers."""
    return [page for page in data.split(b"OggS")[1:] if b"OpusHead" not in page and b"OpusTags" not in page]


@asynccontextmanager
async def chatting(url: str, path: str = "/api/chat", query: str = "") -> AsyncIterator[Page]:
    """A conversation that has begun; the page is closed at the end."""
    async with connect(f"{url.replace('http', 'ws', 1)}{path}{query}", proxy=None) as socket:
        page = Page(socket)
        tasks = [asyncio.create_task(page.read()), asyncio.create_task(page.microphone())]
        try:
            await page.until(page.connected.is_set)
            yield page
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if page.problem is not None:
        raise page.problem
