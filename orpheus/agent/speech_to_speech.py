"""Speech in, speech out, in one call: `POST /v1/audio/speech-to-speech`.

A recording → its words → the LLM's answer → speech, which is sent while the rest is still being thought. As with speech
from text, a 200 means that there is audio, and a failure after that breaks the body off.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, aclosing
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from orpheus import tracing
from orpheus.agent.audio import read_audio
from orpheus.agent.hear import Recognizer
from orpheus.agent.think import INSTRUCTIONS, Message, TextDelta, Thinker
from orpheus.errors import BadRequest, EngineError, OrpheusError, TooLarge, UpstreamError
from orpheus.http.body_limit import SPEECH_TO_SPEECH
from orpheus.http.responses import GeneratorResponse, first_complaint, while_connected
from orpheus.server import request_context
from orpheus.server.openai import NO_BUFFERING
from orpheus.server.openapi import audio
from orpheus.server.schema import SpeechRequest
from orpheus.server.service import MAX_STREAMED_CHARS, SpeechService
from orpheus.tasks import cancel_and_wait
from orpheus.text.streaming import StreamingSegmenter
from orpheus.tts.encode import CONTENT_TYPES
from orpheus.tts.usage import Usage

MAX_FIELDS = 40  # of a form
MAX_HEADER_BYTES = 2048  # of a text in a header: proxies refuse long ones, and the events have all of it
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A recording: WAV, MP3, Ogg, WebM, M4A or FLAC",
        "content": {
            "audio/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


class SpeechToSpeechRequest(SpeechRequest):
    """The fields of a form or a query, beside the recording: those of speech, without its text."""

    input: str = ""
    instructions: str | None = Field(
        default=None, max_length=4096, description="who answers, and how; unset: the server's own"
    )
    language: (
        Annotated[str, Field(pattern="^[a-z]{2,3}$", description="of the recording, such as en")] | None
    ) = None


class Exchange:
    """One question and its answer, with what became of it so far. Times are in seconds."""

    def __init__(
        self, service: SpeechService, recognizer: Recognizer, thinker: Thinker, request: SpeechToSpeechRequest
    ) -> None:
        """BadRequest if the request is wrong, NotReady while the service loads."""
        self.params = service.params(request)
        self.usage = Usage()
        self.transcript = ""
        self.answer = ""  # as far as it is thought
        self.heard_in_s = 0.0
        self.first_token_s: float | None = None  # from the transcript
        self.thought_in_s: float | None = None  # all of the answer
        self.first_audio_s: float | None = None  # from the first token
        self.spoke_in_s: float | None = None  # from the first token to the last audio
        self._service = service
        self._recognizer = recognizer
        self._thinker = thinker
        self._request = request
        self._segmenter = service.pipeline.segmenter(self.params, max_chars=MAX_STREAMED_CHARS)

    async def hear(self, recording: bytes) -> None:
        """Set `transcript`. BadRequest if the recording cannot be read or nobody speaks in it."""
        began_s = time.perf_counter()
        with tracing.span("hear"):
            samples = await asyncio.to_thread(read_audio, recording)
            language = self._request.language
            try:
                heard = await self._recognizer.transcribe(samples, language=language)
            except EngineError:  # which may pass; what is wrong with the recording does not
                heard = await self._recognizer.transcribe(samples, language=language)
        self.heard_in_s = time.perf_counter() - began_s
        self.transcript = heard.text.strip()
        if not self.transcript:
            raise BadRequest(
                "Nobody was heard to speak in the recording: record again, closer to the microphone.",
                param="file",
                code="no_speech",
            )

    async def speak(self) -> AsyncGenerator[bytes]:
        """The answer as encoded audio, at least one chunk; `answer` grows meanwhile."""
        thinking = asyncio.create_task(self._think(self._segmenter))
        try:
            async with aclosing(self._service.encoded(self._segmenter, self.params, self.usage)) as chunks:
                async for chunk in chunks:
                    if self.first_audio_s is None:
                        self.first_audio_s = self._since_first_token()
                    yield chunk
            await thinking  # raises what it failed of
        finally:
            await cancel_and_wait([thinking])
        if self.first_audio_s is None:
            raise UpstreamError(
                "The language model's answer has nothing that the voice can speak; ask again."
            )
        self.spoke_in_s = self._since_first_token()

    async def _think(self, segmenter: StreamingSegmenter) -> None:
        self._heard_s = time.perf_counter()
        messages = [
            Message("system", self._request.instructions or INSTRUCTIONS),
            Message("user", self.transcript),
        ]
        # A seed asks for the same again, which an LLM gives only where it chooses nothing.
        temperature = None if self._request.seed is None else 0.0
        context = request_context.current.get()
        try:
            with tracing.span("think"):
                async with aclosing(self._thinker.answer(messages, temperature=temperature)) as thoughts:
                    async for thought in thoughts:
                        if not isinstance(thought, TextDelta):
                            continue
                        if self.first_token_s is None:
                            self.first_token_s = time.perf_counter() - self._heard_s
                        segmenter.push(thought.text)
                        self.answer += thought.text
                        if context is not None:
                            context.add_text(thought.text)
        except TooLarge:
            pass  # it does not end by itself: what was said is the answer
        finally:
            self.thought_in_s = time.perf_counter() - self._heard_s
            segmenter.end()

    def _since_first_token(self) -> float:
        return time.perf_counter() - self._heard_s - (self.first_token_s or 0.0)

    def timings_ms(self) -> dict[str, float]:
        """The stages that are over, in milliseconds."""
        stages = {
            "asr_ms": self.heard_in_s,
            "llm_first_token_ms": self.first_token_s,
            "llm_ms": self.thought_in_s,
            "first_audio_ms": self.first_audio_s,
            "tts_ms": self.spoke_in_s,
        }
        return {name: round(1000 * took_s, 1) for name, took_s in stages.items() if took_s is not None}


def routes(
    service: SpeechService,
    recognizer: Callable[[], Recognizer],
    thinker: Callable[[], Thinker],
    admitted: Callable[[], AbstractContextManager[None]],
) -> APIRouter:
    """`recognizer` and `thinker` raise NotReady while theirs loads, `admitted` AtCapacity while the agent is full."""
    router = APIRouter()

    @router.post(SPEECH_TO_SPEECH, response_class=Response, responses=audio(), openapi_extra=_BODY)
    async def speech_to_speech(request: Request) -> Response:
        """Answer a recording with speech; audio is sent while it is generated."""
        service.admission.check_open()
        service.admission.check_room()
        async with AsyncExitStack() as held:
            held.enter_context(admitted())
            try:
                recording, fields = await _read(request)
                asked = read_request(fields)
                exchange = Exchange(service, recognizer(), thinker(), asked)
                answering = _answer(exchange, recording, events=asked.stream_format == "sse")
                response = await while_connected(request.receive, answering)
            except ClientDisconnect:
                return Response(status_code=499)  # never sent: the client is gone
            if isinstance(response, _Streamed):
                response.held = held.pop_all()
            return response

    return router


class _Streamed(GeneratorResponse):
    """Keeps its place until it is over, however that comes."""

    held: AsyncExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.held:
            await super().__call__(scope, receive, send)


async def _read(request: Request) -> tuple[bytes, dict[str, str]]:
    """The recording, and the fields beside it. BadRequest if there is none."""
    fields = dict(request.query_params)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        if kind in ("application/json", "application/x-www-form-urlencoded"):
            raise BadRequest(
                "Send the recording itself as the body, or as the file of a form (multipart/form-data).",
                param="file",
            )
        return await request.body(), fields
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
            fields |= {name: value for name, value in form.items() if isinstance(value, str)}
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise BadRequest("The form has no file: send the recording as `file`.", param="file")
            return await file.read(), fields
    except HTTPException as error:
        raise BadRequest(f"The form cannot be read: {error.detail}") from error


def read_request(fields: Mapping[str, Any]) -> SpeechToSpeechRequest:
    """BadRequest names the field that is wrong."""
    try:
        return SpeechToSpeechRequest.model_validate(dict(fields))
    except ValidationError as error:
        raise first_complaint(error) from error


async def _answer(exchange: Exchange, recording: bytes, *, events: bool) -> Response:
    """The response, once there is audio."""
    params = exchange.params
    await exchange.hear(recording)
    speech = exchange.speak()
    try:
        first = await anext(speech)
        if params.whole_file:
            await anext(speech, None)  # it was the only chunk; run the generator to its end
    except BaseException:
        await speech.aclose()
        raise
    headers = {
        **NO_BUFFERING,
        "X-Sample-Rate": str(params.sample_rate),
        "X-Transcript": in_a_header(exchange.transcript),
        "Server-Timing": server_timing(exchange),
    }
    if exchange.thought_in_s is not None:
        headers["X-Answer"] = in_a_header(exchange.answer.strip())
    if params.whole_file:
        return Response(first, media_type=CONTENT_TYPES[params.format], headers=headers)
    stream = _with_first(first, speech)
    if events:
        return _Streamed(_events(exchange, stream), media_type="text/event-stream", headers=headers)
    return _Streamed(stream, media_type=CONTENT_TYPES[params.format], headers=headers)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _events(exchange: Exchange, speech: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """Both texts and the audio, as server-sent events."""
    told = 0
    yield _event("transcript.done", text=exchange.transcript, asr_ms=round(1000 * exchange.heard_in_s, 1))
    try:
        async with aclosing(speech):
            async for chunk in speech:
                if delta := exchange.answer[told:]:
                    told += len(delta)
                    yield _event("answer.delta", delta=delta)
                yield _event("speech.audio.delta", audio=base64.b64encode(chunk).decode())
    except OrpheusError as error:
        yield f"event: error\n{_event('error', **error.body())}"
        raise  # breaks the body: a client that ignores events must not take this for the end
    usage = exchange.usage
    yield _event(
        "speech.audio.done",
        transcript=exchange.transcript,
        answer=exchange.answer.strip(),
        timings=exchange.timings_ms(),
        usage={
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.audio_tokens,
            "total_tokens": usage.prompt_tokens + usage.audio_tokens,
        },
    )


def _event(type: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': type, **fields})}\n\n"


def in_a_header(text: str) -> str:
    """Percent-encoded UTF-8, cut between two characters where it gets too long for a header."""
    encoded = [quote(character, safe=" ,.!?'") for character in text[:MAX_HEADER_BYTES]]
    length, fits = 0, []
    for character in encoded:
        length += len(character)
        if length > MAX_HEADER_BYTES:
            break
        fits.append(character)
    return "".join(fits)


def server_timing(exchange: Exchange) -> str:
    """The stages up to the first audio, as browsers' developer tools show them."""
    names = {"asr_ms": "asr", "llm_first_token_ms": "llm", "first_audio_ms": "tts"}
    timings = exchange.timings_ms()
    return ", ".join(f"{name};dur={timings[key]}" for key, name in names.items() if key in timings)
