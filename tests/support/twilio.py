"""A model of Twilio's side of a bidirectional Media Stream, as its documentation describes it, so that a server that works
with it works with Twilio: 20 ms of the caller every 20 ms, what it gets is played in real time and its marks come back
once they are played, `clear` empties the buffer and gives its marks back, and anything else that it gets is an error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from orpheus.agent.audio import AudioFormat, InputStream, OutputStream

FRAME_S = 0.02
FRAME_BYTES = 160
STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
QUIET = b"\xff" * FRAME_BYTES
OUT_RATE = 24_000


class ProtocolError(Exception):
    """Error 31924: Twilio ends the stream."""


class Call:
    """One call. Times are of time.monotonic."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.played = bytearray()  # of µ-law: what the caller has heard, silence left out
        self.received = bytearray()
        self.cleared = 0  # times
        self.dropped = 0  # bytes, by `clear`
        self.marks: list[str] = []  # returned
        self.problem: Exception | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self._buffer: deque[bytes | str] = deque()
        self._voice: deque[bytes] = deque()
        self._sequence = 0
        self._encode = OutputStream(AudioFormat("pcmu", 8000), OUT_RATE)

    async def send(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), "streamSid": STREAM, **fields}
        await self.socket.send(json.dumps(message))

    async def begin(self, **parameters: str) -> None:
        await self.socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        start = {
            "streamSid": STREAM,
            "accountSid": "AC" + "0" * 32,
            "callSid": "CA" + "0" * 32,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters,
        }
        await self.send("start", start=start)

    def say(self, pcm16: bytes) -> None:
        """The caller speaks: 16-bit samples at 24 kHz."""
        sound = self._encode.add(np.frombuffer(pcm16, "<i2").astype(np.float32) / np.float32(32768))
        whole = len(sound) - len(sound) % FRAME_BYTES
        self._voice.extend(sound[start : start + FRAME_BYTES] for start in range(0, whole, FRAME_BYTES))

    async def until(self, done: Callable[[], Any], timeout_s: float = 15) -> None:
        async with asyncio.timeout(timeout_s):
            while not done():
                if self.problem is not None:
                    raise self.problem
                await asyncio.sleep(0.005)

    @property
    def playing(self) -> bool:
        return bool(self._buffer)

    async def line(self) -> None:
        """The telephone line, until the stream ends."""
        due_s, chunk = time.monotonic(), 0
        try:
            while True:
                chunk += 1
                frame = self._voice.popleft() if self._voice else QUIET
                media = {
                    "track": "inbound",
                    "chunk": str(chunk),
                    "timestamp": str(20 * chunk),
                    "payload": base64.b64encode(frame).decode(),
                }
                await self.send("media", media=media)
                await self._play()
                due_s += FRAME_S
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        except ConnectionClosed:
            pass

    async def _play(self) -> None:
        """What the caller hears in 20 ms."""
        left = FRAME_BYTES
        while self._buffer and left:
            first = self._buffer.popleft()
            if isinstance(first, str):
                await self._return(first)
                continue
            self.played += first[:left]
            if len(first) > left:
                self._buffer.appendleft(first[left:])
            left -= min(left, len(first))
        while self._buffer and isinstance(self._buffer[0], str):
            await self._return(str(self._buffer.popleft()))

    async def _return(self, mark: str) -> None:
        self.marks.append(mark)
        await self.send("mark", mark={"name": mark})

    async def read(self) -> None:
        try:
            async for message in self.socket:
                await self._take(message)
        except ConnectionClosed:
            pass
        except Exception as error:
            self.problem = error
            raise
        self.close_code, self.close_reason = self.socket.close_code, self.socket.close_reason or ""

    async def _take(self, raw: str | bytes) -> None:
        if not isinstance(raw, str):
            raise ProtocolError("binary")
        message = json.loads(raw)
        if message.get("streamSid") != STREAM:
            raise ProtocolError(raw[:200])
        match message:
            case {"event": "media", "media": {"payload": payload}}:
                sound = base64.b64decode(payload, validate=True)
                self.received += sound
                self._buffer.append(sound)
            case {"event": "mark", "mark": {"name": str(name)}} if name:
                if self._buffer:
                    self._buffer.append(name)
                else:
                    await self._return(name)
            case {"event": "clear"}:
                self.cleared += 1
                self.dropped += sum(len(part) for part in self._buffer if isinstance(part, bytes))
                marks = [part for part in self._buffer if isinstance(part, str)]
                self._buffer.clear()
                for mark in marks:
                    await self._return(mark)
            case _:
                raise ProtocolError(raw[:200])

    @property
    def heard(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What was played, at 16 kHz."""
        return InputStream(AudioFormat("pcmu", 8000)).add(bytes(self.played))


@asynccontextmanager
async def calling(
    url: str, *, path: str = "/v1/twilio", headers: dict[str, str] | None = None, **parameters: str
) -> AsyncIterator[Call]:
    """A call that has begun, its line open; the caller hangs up at the end."""
    async with connect(url.replace("http", "ws", 1) + path, proxy=None, additional_headers=headers) as socket:
        call = Call(socket)
        await call.begin(**parameters)
        tasks = [asyncio.create_task(call.line()), asyncio.create_task(call.read())]
        try:
            yield call
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(call.problem, Exception):
        raise call.problem
