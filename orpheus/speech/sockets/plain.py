"""`/v1/audio/speech/stream/ws`: the whole text in as one text frame, samples out, closed when complete.

The first attempt's contract: binary frames hold 16-bit little-endian mono samples at 24 kHz, an even number of
bytes and at most 64 KiB each (its client drops larger messages), and 1000 is the only end-of-speech there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.requests import ClientDisconnect

from orpheus.encode import SPEED_MAX, SPEED_MIN
from orpheus.errors import AtCapacity, BadRequest, NotReady, OrpheusError, RequestError
from orpheus.http import while_connected
from orpheus.speech.service import SpeechService, Utterance
from orpheus.synthesis import Usage
from orpheus.voices import DEFAULT_VOICE

SAMPLE_RATE = 24_000  # Hz, whatever ORPHEUS_SAMPLE_RATE says: its client has no way to learn another
MOST_BYTES = 64 * 1024  # a frame; even, so that no sample is cut

# Close codes (RFC 6455 and the IANA registry).
COMPLETE, POLICY, TOO_BIG, FAILED, TRY_AGAIN = 1000, 1008, 1009, 1011, 1013


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()

    @router.websocket("/v1/audio/speech/stream/ws")
    async def stream(socket: WebSocket) -> None:
        """Speak the first text frame with the query's `voice` and `speed`."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, ClientDisconnect):
            code, reason = await _serve(service, socket)
            await socket.close(code, reason)

    return router


async def _serve(service: SpeechService, socket: WebSocket) -> tuple[int, str]:
    try:
        text = await _first_text(socket)
        query = socket.query_params
        utterance = Utterance(
            text, query.get("voice", DEFAULT_VOICE), "pcm", _speed(query.get("speed")), SAMPLE_RATE
        )
        chunks = service.encoded(service.prepare(utterance), Usage())
        await while_connected(socket.receive, _send(socket, chunks))
    except OrpheusError as error:
        return close_code(error), close_reason(error)
    return COMPLETE, ""


async def _first_text(socket: WebSocket) -> str:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise BadRequest("The first message must be a text frame with the text to speak.")
    return str(text)


def _speed(value: str | None) -> float:
    try:
        speed = float(value or 1.0)
    except ValueError:
        speed = 0.0
    if not SPEED_MIN <= speed <= SPEED_MAX:
        raise BadRequest(f"speed must be between {SPEED_MIN} and {SPEED_MAX}.", param="speed")
    return speed


async def _send(socket: WebSocket, chunks: AsyncGenerator[bytes]) -> None:
    async with aclosing(chunks):
        async for chunk in chunks:
            for start in range(0, len(chunk), MOST_BYTES):
                await socket.send_bytes(chunk[start : start + MOST_BYTES])


def close_code(error: OrpheusError) -> int:
    if isinstance(error, AtCapacity | NotReady):
        return TRY_AGAIN
    return POLICY if isinstance(error, RequestError) else FAILED


def close_reason(error: OrpheusError) -> str:
    """The sentence, within the 123 bytes a close frame has for it."""
    encoded = str(error).encode()
    return str(error) if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "…"
