"""`WS /api/tts_streaming`: moshi-server's protocol, as unmute's TTS client speaks it.

msgpack maps in binary frames, both ways, in the PcmMessagePack format:

    ▶ Text (a word)…  Eos        ◀ Ready  Audio (1,920 samples, float32)…  Text (a word and its times)…  Error

The client breaks unless Ready is sent at once; only these four types are sent; the socket stays open until Eos, even
after a failure, and is closed with 1000 after the last audio; words come in strictly increasing order of time; and
something is sent every 80 ms while the client holds audio, since it plays only when a message arrives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgpack
import numpy as np
from fastapi import APIRouter, WebSocket

from orpheus import __version__
from orpheus.errors import AtCapacity, BadRequest, NotReady, OrpheusError
from orpheus.playout import PlayoutClock
from orpheus.server.openapi import errors
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import KEEP_ALIVE_S, SAMPLE_RATE, Connection, serve
from orpheus.server.sockets.messages import read_msgpack
from orpheus.server.utterance_queue import (
    Audio,
    Event,
    UtteranceCancelled,
    UtteranceDone,
    UtteranceFailed,
    UtteranceQueue,
    WordStarted,
)
from orpheus.tasks import first_of

log = logging.getLogger(__name__)

CHUNK_SAMPLES = 1920  # 80 ms: one page of unmute's Opus encoder
CHUNK_BYTES = 2 * CHUNK_SAMPLES
TICK_S = CHUNK_SAMPLES / SAMPLE_RATE
CHECK_S = 1.0  # unmute waits 2 s for build_info
PATH = "/api/tts_streaming"


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.websocket("/tts_streaming")
    async def stream(socket: WebSocket) -> None:
        """Speak words as they arrive."""
        await socket.accept()
        connection = Connection(socket)
        turn = _Turn(service, connection)
        await serve(connection, turn.run())

    @router.get("/build_info", responses=errors(503))
    async def build_info() -> dict[str, str]:
        """200 while speech can be served: unmute checks before each conversation."""
        try:
            async with asyncio.timeout(CHECK_S):
                problem = await service.problem()
        except TimeoutError:  # busy, not broken
            problem = None
        if problem:
            raise NotReady(problem)
        return {"build_info": "orpheus", "version": __version__}

    @router.get("/modules_info")
    async def modules_info() -> list[dict[str, Any]]:
        """How many utterances are in progress, and how many may be."""
        admission = service.admission
        counts = {"used_slots": admission.active, "total_slots": admission.limit}
        return [{"type": "Py", "path": PATH, **counts}]

    return router


class _Turn:
    """One turn of the bot: unmute opens a connection for each."""

    def __init__(self, service: SpeechService, connection: Connection) -> None:
        self._service = service
        self._connection = connection
        self._utterances = UtteranceQueue(service, self._emit)
        self._playout = PlayoutClock()
        self._pending = bytearray()  # samples, less than a chunk
        self._failed = False

    async def run(self) -> None:
        try:
            self._check()
        except OrpheusError as error:
            await self._send(type="Error", message=str(error))
            raise
        await self._send(type="Ready")
        await first_of(self._read(), self._utterances.run(), self._tick())

    def _check(self) -> None:
        """Raises why the turn cannot start."""
        format = self._connection.socket.query_params.get("format", "PcmMessagePack")
        if format != "PcmMessagePack":
            raise BadRequest(f"The format {format[:40]!r} is not supported; use PcmMessagePack.")
        if self._service.admission.full:
            raise AtCapacity("no free channels")  # moshi-server's words
        _ = self._service.pipeline

    async def _read(self) -> None:
        voice = self._voice()
        request = SpeechRequest(input="", voice=voice, response_format="pcm", sample_rate=SAMPLE_RATE)
        while True:
            message = await self._connection.receive()
            if self._utterances.ended:
                continue  # after Eos nothing is wanted but the client's leaving
            try:
                kind, text = _parse_message(message)
                if kind == "Eos":
                    self._utterances.close()
                elif kind == "Text" and not self._failed:
                    self._connection.has_text = True
                    self._utterances.add_text(text, request, word=True)
            except OrpheusError as error:
                await self._fail(error)

    def _voice(self) -> str:
        name = self._connection.socket.query_params.get("voice")
        voice, found = self._service.voices.find_unmute(name)
        if not found:
            log.info("unknown voice %r: using %s", str(name)[:80], voice.id)
            self._service.metrics.unknown_voices.inc()
        return voice.id

    async def _tick(self) -> None:
        """Send Ready, which the client ignores, whenever it holds audio and nothing else is sent."""
        while True:
            now_s = time.monotonic()
            has_audio = self._playout.buffered_s(now_s) > 0
            quiet_s = now_s - self._connection.sent_s
            if quiet_s >= (TICK_S if has_audio else KEEP_ALIVE_S):
                await self._send(type="Ready")
                quiet_s = 0.0
            await asyncio.sleep(max(0.01, TICK_S - quiet_s))

    async def _emit(self, event: Event) -> None:
        match event:
            case Audio():
                self._pending += event.data
                await self._send_chunks()
            case WordStarted(_, word):
                await self._send(type="Text", text=word.text, start_s=word.start_s, stop_s=word.stop_s)
            case UtteranceFailed():
                await self._fail(event.error)
            case UtteranceDone() | UtteranceCancelled():
                self._pending += bytes(-len(self._pending) % CHUNK_BYTES)  # fills the last chunk
                await self._send_chunks()

    async def _send_chunks(self) -> None:
        while len(self._pending) >= CHUNK_BYTES:
            chunk = np.frombuffer(bytes(self._pending[:CHUNK_BYTES]), "<i2") / np.float32(32768)
            del self._pending[:CHUNK_BYTES]
            self._playout.add(TICK_S)
            await self._connection.send_audio(_pack(type="Audio", pcm=chunk.tolist()))

    async def _fail(self, error: OrpheusError) -> None:
        """Send the error and ignore further text: closing before Eos would end the whole conversation."""
        log.warning("an unmute turn failed: %s", error)
        self._failed = True
        await self._send(type="Error", message=str(error))

    async def _send(self, **message: Any) -> None:
        await self._connection.send(_pack(**message))


def _pack(**message: Any) -> bytes:
    return bytes(msgpack.packb(message, use_single_float=True))


def _parse_message(message: str | bytes) -> tuple[str, str]:
    """The type and the text of a message. Old clients send plain text frames, and a zero byte for Eos."""
    if isinstance(message, str):
        return "Text", message
    if message == b"\0":
        return "Eos", ""
    body = read_msgpack(message, ("type", "text"))
    if body is None or "type" not in body:
        raise BadRequest("This message is not a msgpack map with a 'type'.", code="invalid_msgpack")
    kind, text = body["type"], body.get("text", "")
    if kind not in ("Text", "Eos", "Voice") or not isinstance(text, str):
        raise BadRequest("A message must be of type Text, Eos or Voice.")
    return kind, text
