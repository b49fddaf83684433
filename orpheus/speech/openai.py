"""The REST routes: OpenAI's speech API, its streaming variant, and the lists clients look things up in.

Knows nothing of tokens or samples: a route checks, plans and streams bytes. The first audio is in hand before
a 200 is sent; what fails after that breaks the body visibly, never a clean end.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from orpheus.encode import CONTENT_TYPES
from orpheus.errors import NotFound, OrpheusError
from orpheus.http import GeneratorResponse
from orpheus.speech.schema import SpeechRequest, StreamRequest
from orpheus.speech.service import SpeechService
from orpheus.synthesis import Usage
from orpheus.voices import OPENAI_VOICES, voices_of

MODEL_ID = "orpheus-tts"
# OpenAI's names, which clients send unless told otherwise; all of them are the one model.
MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
CREATED = 1742342400  # 2025-03-19, when Orpheus-3B was published
# A proxy that gathers a response before passing it on would undo the streaming.
NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/audio/speech", response_class=Response)
    async def speech(request: Request, body: SpeechRequest) -> Response:
        """Speak `input`; the bytes leave while they are made."""
        return await _speak(service, request, body)

    @router.post("/v1/audio/speech/stream", response_class=Response)
    async def speech_stream(request: Request, body: StreamRequest) -> Response:
        """The same with raw 16-bit mono samples by default."""
        return await _speak(service, request, body)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in (MODEL_ID, *MODEL_ALIASES)]}

    @router.get("/v1/models/{model_id}")
    async def model(model_id: str) -> dict[str, Any]:
        if model_id not in (MODEL_ID, *MODEL_ALIASES):
            raise NotFound(f"There is no model {model_id[:60]!r}; {MODEL_ID} is.", code="model_not_found")
        return _model(model_id)

    @router.get("/v1/audio/voices")
    async def voices() -> dict[str, Any]:
        listed = [
            {"id": voice.id, "name": voice.id, "language": voice.language, "gender": voice.gender}
            for voice in voices_of(service.languages)
        ]
        return {"voices": listed, "aliases": OPENAI_VOICES}

    @router.get("/health")
    async def health() -> JSONResponse:
        problem = await service.problem()
        state = "ready" if problem is None else "failed" if service.failure else "not ready"
        body = {"status": state, "reason": problem, "codec": service.codec_report()}
        return JSONResponse(body, 200 if problem is None else 503)

    return router


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "orpheus"}


async def _speak(service: SpeechService, request: Request, body: SpeechRequest) -> Response:
    job = service.prepare(body.utterance())
    usage = Usage()
    chunks = service.encoded(job, usage)
    first = await _unless_disconnected(request, anext(chunks))
    if first is None:
        await chunks.aclose()
        return Response(status_code=499)  # nobody is there to read it
    headers = {**NO_BUFFERING, "X-Sample-Rate": str(job.sample_rate)}
    stream = _with_first(first, chunks)
    if body.stream_format == "sse":
        return GeneratorResponse(_events(stream, usage), media_type="text/event-stream", headers=headers)
    return GeneratorResponse(stream, media_type=CONTENT_TYPES[job.format], headers=headers)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _events(chunks: AsyncGenerator[bytes], usage: Usage) -> AsyncGenerator[str]:
    """OpenAI's speech events; each delta is a slice of the encoded stream."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk).decode()})
    except OrpheusError as error:
        yield _event({"type": "error", **error.body()}, name="error")
        raise  # and break the body: a client that reads no events must not take this for the end
    counts = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.audio_tokens,
        "total_tokens": usage.prompt_tokens + usage.audio_tokens,
    }
    yield _event({"type": "speech.audio.done", "usage": counts})


def _event(data: dict[str, Any], name: str | None = None) -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


async def _unless_disconnected(request: Request, work: Any) -> bytes | None:
    """The result of `work`, or None where the client left first; then the work is cancelled."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
