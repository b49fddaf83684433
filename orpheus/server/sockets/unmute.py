"""`WS /api/tts_streaming`: what the unmute orchestrator's TTS client speaks, unmodified.

msgpack maps in binary frames, both ways; moshi-server's protocol in its PcmMessagePack format:

    ▶ Text (a word)…  Eos        ◀ Ready  Audio (1,920 samples, float32)…  Text (a word and its times)…  Error

Its client breaks unless: Ready comes at once; only these four types are sent; the socket stays open until Eos, even
after a failure, and is closed with 1000 after the last audio; words come in strictly increasing order of time; and
something is sent every 80 ms while it holds audio, since it plays only when a message arrives.
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
from orpheus.voices import unmute_voice

log = logging.getLogger(__name__)

FRAME_SAMPLES = 1920  # 80 ms: one page of the orchestrator's Opus encoder
FRAME_BYTES = 2 * FRAME_SAMPLES
TICK_S = FRAME_SAMPLES / SAMPLE_RATE
CHECK_S = 1.0  # build_info is given up on after 2 s
PATH = "/api/tts_streaming"


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.websocket("/tts_streaming")
    async def stream(socket: WebSocket) -> None:
        """Speak words as they come."""
        await socket.accept()
        connection = Connection(socket)
        turn = _Turn(service, connection)
        await serve(connection, turn.hold())

    @router.get("/build_info", responses=errors(503))
    async def build_info() -> dict[str, str]:
        """200 where it can speak: the orchestrator asks before each conversation."""
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
        """The places there are, and how many are taken."""
        places = service.admission
        return [{"type": "Py", "path": PATH, "used_slots": places.taken, "total_slots": places.most}]

    return router


class _Turn:
    """One reply: the orchestrator opens a connection for each."""

    def __init__(self, service: SpeechService, connection: Connection) -> None:
        self._service = service
        self._connection = connection
        self._utterances = UtteranceQueue(service, self._emit)
        self._playout = PlayoutClock()
        self._samples = bytearray()  # less than a frame
        self._failed = False

    async def hold(self) -> None:
        try:
            self._check()
        except OrpheusError as error:
            await self._send(type="Error", message=str(error))
            raise
        await self._send(type="Ready")
        await first_of(self._read(), self._utterances.run(), self._tick())

    def _check(self) -> None:
        """Raises why there can be no turn now."""
        format = self._connection.socket.query_params.get("format", "PcmMessagePack")
        if format != "PcmMessagePack":
            raise BadRequest(f"The format {format[:40]!r} is not served: ask for PcmMessagePack.")
        if self._service.admission.full:
            raise AtCapacity("no free channels")  # moshi-server's words
        _ = self._service.pipeline

    async def _read(self) -> None:
        voice = self._voice()
        request = SpeechRequest(input="", voice=voice, response_format="pcm", sample_rate=SAMPLE_RATE)
        while True:
            try:
                kind, text = _parsed(await self._connection.receive())
                if kind == "Eos":
                    self._utterances.close()
                elif kind == "Text" and not self._failed:
                    self._connection.asked = True
                    self._utterances.add_text(text, request, word=True)
            except OrpheusError as error:
                await self._fail(error)

    def _voice(self) -> str:
        asked = self._connection.socket.query_params.get("voice")
        voice, known = unmute_voice(asked, self._service.languages)
        if not known:
            log.info("there is no voice %r; %s speaks", str(asked)[:80], voice.id)
            self._service.metrics.unknown_voices.inc()
        return voice.id

    async def _tick(self) -> None:
        """Ready, which the client passes over, whenever it holds audio and nothing else is sent."""
        while True:
            now_s = time.monotonic()
            holds = self._playout.buffered_s(now_s) > 0
            quiet_s = now_s - self._connection.sent_s
            if quiet_s >= (TICK_S if holds else KEEP_ALIVE_S):
                await self._send(type="Ready")
                quiet_s = 0.0
            await asyncio.sleep(max(0.01, TICK_S - quiet_s))

    async def _emit(self, event: Event) -> None:
        match event:
            case Audio():
                self._samples += event.data
                await self._send_frames()
            case WordStarted(_, word):
                await self._send(type="Text", text=word.text, start_s=word.start_s, stop_s=word.stop_s)
            case UtteranceFailed():
                await self._fail(event.error)
            case UtteranceDone() | UtteranceCancelled():
                self._samples += bytes(-len(self._samples) % FRAME_BYTES)  # the last frame, made whole
                await self._send_frames()

    async def _send_frames(self) -> None:
        while len(self._samples) >= FRAME_BYTES:
            frame = np.frombuffer(bytes(self._samples[:FRAME_BYTES]), "<i2") / np.float32(32768)
            del self._samples[:FRAME_BYTES]
            self._playout.add(TICK_S)
            await self._connection.send_audio(_packed(type="Audio", pcm=frame.tolist()))

    async def _fail(self, error: OrpheusError) -> None:
        """Told, and what follows is read and dropped: closing before Eos would end the whole session."""
        log.warning("a turn of the orchestrator failed: %s", error)
        self._failed = True
        await self._send(type="Error", message=str(error))

    async def _send(self, **message: Any) -> None:
        await self._connection.send(_packed(**message))


def _packed(**message: Any) -> bytes:
    return bytes(msgpack.packb(message, use_single_float=True))


def _parsed(message: str | bytes) -> tuple[str, str]:
    """The type of a message and its text. Old clients send plain text frames, and a zero byte for Eos."""
    if isinstance(message, str):
        return "Text", message
    if message == b"\0":
        return "Eos", ""
    try:
        body = msgpack.unpackb(message)
        kind, text = body["type"], body.get("text", "")
    except Exception:  # msgpack's errors have no common base
        raise BadRequest("This message is no msgpack map with a type.", code="invalid_msgpack") from None
    if kind not in ("Text", "Eos", "Voice") or not isinstance(text, str):
        raise BadRequest("Messages are of type Text, Eos or Voice.")
    return kind, text
