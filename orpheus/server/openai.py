"""OpenAI's speech API, `POST /v1/audio/speech`, its streaming variant, and the same by GET: text in, encoded audio out.

A 200 is sent only once the first audio exists; a failure after that breaks the body off instead of ending it cleanly.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from orpheus.errors import OrpheusError
from orpheus.http.leniency import is_head
from orpheus.http.responses import GeneratorResponse, while_connected
from orpheus.server import request_context
from orpheus.server.cache import CachedResponse
from orpheus.server.openapi import audio, errors
from orpheus.server.schema import SpeechQuery, SpeechRequest, StreamRequest
from orpheus.server.service import SpeechService
from orpheus.tts.encode import CONTENT_TYPES
from orpheus.tts.params import SpeechParams
from orpheus.tts.usage import Usage

# A proxy that buffers the response would undo the streaming.
NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter()
    settings = service.settings
    speak = _SpeechEndpoint(service)

    @router.post("/v1/audio/speech", response_class=Response, responses=audio())
    async def speech(request: Request, body: SpeechRequest) -> Response:
        """Speak `input`; audio is sent while it is generated."""
        return await speak(request, body)

    @router.post("/v1/audio/speech/stream", response_class=Response, responses=audio())
    async def speech_stream(request: Request, body: StreamRequest) -> Response:
        """The same, with raw 16-bit mono samples by default."""
        return await speak(request, body)

    if settings.get_speech:

        @router.get("/v1/audio/speech", response_class=Response, responses=audio() | errors(403))
        async def speech_at_url(request: Request, query: Annotated[SpeechQuery, Query()]) -> Response:
            """The same at a URL, for players and `<audio>` elements; the API key may be its `api_key`."""
            return await speak(request, query)

    return router


class _SpeechEndpoint:
    """A parsed request body → its response."""

    def __init__(self, service: SpeechService) -> None:
        self._service = service

    async def __call__(self, request: Request, body: SpeechRequest) -> Response:
        params = self._service.params(body)
        text = self._service.segment(body.input, params)
        usage = Usage()
        headers = _headers(params) | {"X-Input-Chars": str(len(body.input))}
        if left_out_chars := text.left_out_chars:
            headers["X-Left-Out-Chars"] = str(left_out_chars)
        playout_rate = self._service.pipeline.playout_rate(params)
        chunks = self._service.encoded(text.source(), params, usage)
        cache = self._service.cache
        if cache.accepts(params):
            key = self._service.cache_key(text, params)
            cached = await cache.find(key)
            self._note_lookup("miss" if cached is None else "hit", headers)
            if cached is not None:
                return _from_cache(cached, left_out_chars, params, body, headers)
            chunks = cache.keep(key, usage, playout_rate, chunks)
        media_type = "text/event-stream" if body.stream_format == "sse" else CONTENT_TYPES[params.format]
        if is_head(request.scope):
            self._service.admission.check_room()
            head = Response(media_type=media_type, headers=headers)
            del head.headers["content-length"]  # nobody knows it yet
            return head
        try:
            first = await while_connected(request.receive, anext(chunks))
        except ClientDisconnect:
            await chunks.aclose()
            return Response(status_code=499)  # never sent: the client is gone
        if params.whole_file:
            await anext(chunks, None)  # it was the only chunk; run the generator to its end
            return Response(first, media_type=media_type, headers=headers)
        stream = _with_first(first, chunks)
        if body.stream_format == "sse":
            events = _events(stream, usage, playout_rate)
            return GeneratorResponse(events, media_type=media_type, headers=headers)
        return GeneratorResponse(stream, media_type=media_type, headers=headers)

    def _note_lookup(self, result: str, headers: dict[str, str]) -> None:
        headers["X-Cache"] = result
        if (context := request_context.current.get()) is not None:
            context.cache = result


def _headers(params: SpeechParams) -> dict[str, str]:
    return {**NO_BUFFERING, "X-Sample-Rate": str(params.sample_rate), "X-Channels": "1", "X-Bit-Depth": "16"}


def _from_cache(
    cached: CachedResponse,
    left_out_chars: int,
    params: SpeechParams,
    body: SpeechRequest,
    headers: dict[str, str],
) -> Response:
    if body.stream_format == "audio":
        return Response(cached.body, media_type=CONTENT_TYPES[params.format], headers=headers)
    content = _delta(cached.body, cached.segments_s) + _done(
        cached.prompt_tokens, cached.audio_tokens, left_out_chars
    )
    return Response(content, media_type="text/event-stream", headers=headers)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _events(chunks: AsyncGenerator[bytes], usage: Usage, playout_rate: float) -> AsyncGenerator[str]:
    """OpenAI's speech events; each delta carries a slice of the encoded stream.

    Extension: `segments_s` lists when, in seconds of audio, the segments that begin in a delta start.
    """
    listed = 0
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                begun = usage.segments_s(playout_rate)[listed:]
                listed += len(begun)
                yield _delta(chunk, begun)
    except OrpheusError as error:
        yield _event({"type": "error", **error.body()}, name="error")
        raise  # breaks the body: a client that ignores events must not take this for the end
    yield _done(usage.prompt_tokens, usage.audio_tokens, usage.left_out_chars)


def _delta(chunk: bytes, segments_s: Sequence[float] = ()) -> str:
    begun = {"segments_s": segments_s} if segments_s else {}
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk).decode(), **begun})


def _done(prompt_tokens: int, audio_tokens: int, left_out_chars: int) -> str:
    """Extension: `left_out_chars` counts letters of the text that the voice cannot speak, if there are any."""
    counts = {
        "input_tokens": prompt_tokens,
        "output_tokens": audio_tokens,
        "total_tokens": prompt_tokens + audio_tokens,
        **({"left_out_chars": left_out_chars} if left_out_chars else {}),
    }
    return _event({"type": "speech.audio.done", "usage": counts})


def _event(data: dict[str, Any], name: str | None = None) -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"
