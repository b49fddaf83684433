"""The REST routes that speak: OpenAI's speech API and its streaming variant.

Knows nothing of tokens or samples: a route checks, plans and streams bytes. The first audio is in hand before
a 200 is sent; what fails after that breaks the body visibly, never a clean end.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from orpheus import weights
from orpheus.errors import OrpheusError
from orpheus.http.responses import GeneratorResponse, while_connected
from orpheus.server import request_context
from orpheus.server.cache import Answer, ResponseCache
from orpheus.server.openapi import audio
from orpheus.server.schema import SpeechRequest, StreamRequest
from orpheus.server.service import Prepared, SpeechService
from orpheus.tts.encode import CONTENT_TYPES
from orpheus.tts.usage import Usage

# A proxy that gathers a response before passing it on would undo the streaming.
NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()
    settings = service.settings
    names = (weights.model_name(settings), weights.codec_name(settings))
    speak = _Speak(service, ResponseCache(settings.cache_mb * 1_000_000, names))

    @router.post("/v1/audio/speech", response_class=Response, responses=audio())
    async def speech(request: Request, body: SpeechRequest) -> Response:
        """Speak `input`; the bytes leave while they are made."""
        return await speak(request, body)

    @router.post("/v1/audio/speech/stream", response_class=Response, responses=audio())
    async def speech_stream(request: Request, body: StreamRequest) -> Response:
        """The same with raw 16-bit mono samples by default."""
        return await speak(request, body)

    return router


class _Speak:
    """A checked body → its response."""

    def __init__(self, service: SpeechService, cache: ResponseCache) -> None:
        self._service = service
        self._cache = cache

    async def __call__(self, request: Request, body: SpeechRequest) -> Response:
        job = self._service.prepare(body.utterance())
        usage = Usage()
        headers = _headers(job)
        chunks = self._service.encoded(job, usage)
        if self._cache.takes(job):
            answer = self._cache.find(job)
            self._note("miss" if answer is None else "hit", headers)
            if answer is not None:
                return _from_cache(answer, job, body, headers)
            chunks = self._cache.keeping(job, usage, chunks)
        try:
            first = await while_connected(request.receive, anext(chunks))
        except ClientDisconnect:
            await chunks.aclose()
            return Response(status_code=499)  # nobody is there to read it
        if job.whole:
            await anext(chunks, None)  # the one chunk was all; this ends what made it
            return Response(first, media_type=CONTENT_TYPES[job.format], headers=headers)
        stream = _with_first(first, chunks)
        if body.stream_format == "sse":
            heard_rate = self._service.pipeline().sample_rate * job.speed
            events = _events(stream, usage, heard_rate)
            return GeneratorResponse(events, media_type="text/event-stream", headers=headers)
        return GeneratorResponse(stream, media_type=CONTENT_TYPES[job.format], headers=headers)

    def _note(self, result: str, headers: dict[str, str]) -> None:
        headers["X-Cache"] = result
        self._service.metrics.cache.labels(result).inc()
        if (known := request_context.current.get()) is not None:
            known.cache = result


def _headers(job: Prepared) -> dict[str, str]:
    return {**NO_BUFFERING, "X-Sample-Rate": str(job.sample_rate), "X-Channels": "1", "X-Bit-Depth": "16"}


def _from_cache(answer: Answer, job: Prepared, body: SpeechRequest, headers: dict[str, str]) -> Response:
    if body.stream_format == "audio":
        return Response(answer.body, media_type=CONTENT_TYPES[job.format], headers=headers)
    content = _delta(answer.body) + _done(answer.prompt_tokens, answer.audio_tokens)
    return Response(content, media_type="text/event-stream", headers=headers)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _events(chunks: AsyncGenerator[bytes], usage: Usage, heard_rate: float) -> AsyncGenerator[str]:
    """OpenAI's speech events; each delta is a slice of the encoded stream.

    Beyond OpenAI's: `segments_s`, where segments begin that were begun since the delta before, in seconds.
    """
    told = 0
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                begun = usage.edges[told:]
                told += len(begun)
                yield _delta(chunk, [round(sample / heard_rate, 4) for sample in begun])
    except OrpheusError as error:
        yield _event({"type": "error", **error.body()}, name="error")
        raise  # and break the body: a client that reads no events must not take this for the end
    yield _done(usage.prompt_tokens, usage.audio_tokens)


def _delta(chunk: bytes, segments_s: Sequence[float] = ()) -> str:
    begun = {"segments_s": segments_s} if segments_s else {}
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk).decode(), **begun})


def _done(prompt_tokens: int, audio_tokens: int) -> str:
    counts = {
        "input_tokens": prompt_tokens,
        "output_tokens": audio_tokens,
        "total_tokens": prompt_tokens + audio_tokens,
    }
    return _event({"type": "speech.audio.done", "usage": counts})


def _event(data: dict[str, Any], name: str | None = None) -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"
