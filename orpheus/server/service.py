"""Tier 2 without HTTP: a wire request → checked parameters → encoded audio. Shared by every route and socket.

Loads the token source and the codec in the background, so that health can report progress, and limits how many
requests run at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from orpheus import tracing, weights
from orpheus.codec import Codec
from orpheus.codec.checkpoint import read_config
from orpheus.errors import BadRequest, NotReady, OrpheusError
from orpheus.http.loading import BackgroundLoad
from orpheus.pcm import Pcm
from orpheus.sampling import Sampling
from orpheus.server import request_context
from orpheus.server.admission import Admission
from orpheus.server.auth import ApiKeys
from orpheus.server.cache import key_of, open_cache
from orpheus.server.client_secrets import ClientSecrets
from orpheus.server.metrics import SpeechMetrics
from orpheus.server.schema import SpeechRequest
from orpheus.settings import Settings, keys_in
from orpheus.tasks import cancel_and_wait
from orpheus.text import Segment, SegmentedText, SegmentSource
from orpheus.tts.encode import encoded_rate, open_encoder
from orpheus.tts.encoder_threads import EncoderThreads
from orpheus.tts.params import SpeechParams, Split
from orpheus.tts.pipeline import SpeechPipeline
from orpheus.tts.served_model import ServedModel, check_fit, named_model
from orpheus.tts.token_source import EngineTokenSource, HttpTokenSource, TokenSource
from orpheus.tts.traced import traced_encoder
from orpheus.tts.usage import Usage
from orpheus.voices import Voices, voices_of

MAX_STREAMED_CHARS = 16_384  # of one utterance over a WebSocket: about 20 minutes of speech
ASK_S = 1.0  # between two requests to a tier 1 that does not say yet what it serves
LEAD_SILENCE_MS = 30.0  # before the first word; Orpheus itself leaves 400 to 600

Load = Callable[..., Any]
Guard = Callable[[Load], Load]  # wraps a load, to learn of its failure


def unguarded(load: Load) -> Load:
    return load


class SpeechService:
    """Settings, token source and codec of one running tier 2."""

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], TokenSource],
        load_codec: Callable[[ServedModel], Codec],
    ) -> None:
        """`open_source` and `load_codec` may block: they run in a thread, after the server listens."""
        self.settings = settings
        self.on_ready: Callable[[], None] = lambda: None
        self._ending = threading.Event()
        self._threads = EncoderThreads()

        def load() -> SpeechPipeline:
            source = open_source()
            try:
                model = self._learn_model(source)
                return SpeechPipeline(source, load_codec(model), settings, model)
            except BaseException:
                asyncio.run(source.aclose())
                raise

        self._loading = BackgroundLoad(load, _close, "voice")
        self.admission = Admission(settings.max_requests, settings.drain_s)
        self.drain = self.admission.drain
        self.secrets = ClientSecrets(keys_in(settings.api_keys))
        self.keys = ApiKeys(settings, self.admission.usual, self.secrets)
        self.checks: list[
            Callable[[], str | None]
        ] = []  # of what is built on this: the problem, if there is one
        self.metrics = SpeechMetrics()
        self.cache = open_cache(settings.cache, self.metrics)
        self.metrics.gauge("codec_streams", "Open codec streams", self._codec_streams)
        self.metrics.gauge(
            "draining", "1 once the server shuts down, 0 before", lambda: self.admission.draining
        )

    @classmethod
    def over_http(
        cls,
        settings: Settings,
        guard: Guard = unguarded,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> SpeechService:
        """Tier 2 in front of `ORPHEUS_LLAMA_ENDPOINT`.

        `on_death` is called with the reason once the codec can never decode again.
        """

        def open_source() -> TokenSource:
            if settings.codec:
                weights.find_codec(settings)  # what is wrong with it needs no tier 1 to be told
            return HttpTokenSource(settings)

        return cls(settings, guard(open_source), guard(partial(_load_codec, settings, on_death)))

    @classmethod
    def in_process(
        cls,
        settings: Settings,
        guard: Guard = unguarded,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> SpeechService:
        """Both tiers in this process, with no HTTP between them.

        `on_death` is called with the reason once the engine or the codec can never answer again.
        """

        settings = settings.model_copy(update={"model": weights.model_name(settings)})

        def open_engine() -> TokenSource:
            from orpheus.llama.engine import Engine
            from orpheus.llama.gpu_memory import find_model

            engine = Engine.load(find_model(settings), settings, on_death)
            return EngineTokenSource(engine, str(settings.model))

        return cls(settings, guard(open_engine), guard(partial(_load_codec, settings, on_death)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads in the background while the body runs; frees everything after it."""
        async with self._loading:
            announcing = asyncio.create_task(self._announce())
            try:
                yield
            finally:
                self._ending.set()
                await cancel_and_wait([announcing])
                await self.cache.aclose()
                self._threads.close()

    def _learn_model(self, source: TokenSource) -> ServedModel:
        """What tier 1 serves; if it does not tell now, what ORPHEUS_MODEL names, or else as soon as it does."""
        while True:
            try:
                model = asyncio.run(source.model(patient=False))
                self._loading.waits_for = None
                return model
            except OrpheusError as error:
                if self.settings.model:
                    return named_model(self.settings)
                self._loading.waits_for = str(error)
            if self._ending.wait(ASK_S):
                raise NotReady("The server is shutting down.")

    async def _announce(self) -> None:
        with suppress(OrpheusError):  # logged where it happened
            await self.loaded()
            self.on_ready()

    async def loaded(self) -> None:
        """Return once everything is loaded; raise why it could not be. For use within `running`."""
        await self._loading.wait()

    @property
    def failure(self) -> OrpheusError | None:
        """Why loading failed for good, if it did."""
        return self._loading.failure

    @property
    def pipeline(self) -> SpeechPipeline:
        """Raises NotReady until it is loaded, and once the server shuts down."""
        self.admission.check_open()
        return self._loading.ready()

    @property
    def model(self) -> ServedModel:
        """What tier 1 serves, or what ORPHEUS_MODEL says of it; NotReady while neither is known."""
        if self.settings.model and not self._loading.done:
            return named_model(self.settings)
        return self._loading.ready().model

    @property
    def voices(self) -> Voices:
        """What can be asked for; NotReady while the model is not known."""
        return voices_of(self.model.name, self.settings.own_voices)

    async def problem(self) -> str | None:
        """What keeps a request from being served now, in a sentence; None if nothing does."""
        try:
            await self.pipeline.check()
        except OrpheusError as error:
            return str(error)
        return next((problem for check in self.checks if (problem := check()) is not None), None)

    def codec_report(self) -> dict[str, object]:
        try:
            return self._loading.ready().codec.report()
        except NotReady:
            return {}

    def _codec_streams(self) -> float:
        return float(str(self.codec_report().get("open_streams", 0)))

    def params(self, request: SpeechRequest, *, patient: bool = False) -> SpeechParams:
        """Check everything about a request but its text, before any work. BadRequest names the field.

        `patient`: wait if tier 1 is full instead of failing at once, as a conversation should.
        """
        settings = self.settings
        voice = self.voices.find(request.voice_name)
        lead_ms = LEAD_SILENCE_MS if request.lead_silence_ms is None else request.lead_silence_ms
        defaults = {"temperature": settings.temperature, "top_p": settings.top_p}
        params = SpeechParams(
            voice=voice,
            sampling=Sampling(**(defaults | request.sampling)),
            max_tokens=request.max_tokens or settings.max_tokens,
            lead_silence_s=lead_ms / 1000,
            normalize=request.normalize,
            skip_directions=request.stage_directions == "skip",
            patient=patient,
            gathers=not patient,  # a conversation's client wants each frame, and each word, when it is there
            format=request.response_format,
            speed=request.speed,
            sample_rate=encoded_rate(request.response_format, request.sample_rate or settings.sample_rate),
            whole_file=request.whole_file,
            split=request.split,
        )
        tracing.note(voice=voice.id, format=params.format)
        if (context := request_context.current.get()) is not None:
            context.voice, context.format = voice.id, params.format
            context.text = (context.text or "") if settings.log_text else None
        return params

    def segment(self, text: str, params: SpeechParams) -> SegmentedText:
        """A complete text, checked and cut into segments. BadRequest if it is too long or has nothing to say."""
        limit = self.settings.max_input_chars
        if len(text) > limit:
            raise BadRequest(
                f"input has {len(text)} characters; the limit is {limit}. Send it in parts, "
                "or raise ORPHEUS_MAX_INPUT_CHARS.",
                param="input",
                code="string_above_max_length",
            )
        segmented = self.pipeline.segment(text, params)
        if (context := request_context.current.get()) is not None:
            context.add_text(text)
        return segmented

    def cache_key(self, text: SegmentedText, params: SpeechParams) -> str:
        """Equal for requests that equal bytes answer, whichever machine of this release they are sent to."""
        pipeline = self.pipeline
        made_by = {
            "model": asdict(pipeline.model),
            "codec": pipeline.codec.fingerprint,
            "postprocess": pipeline.postprocess,
        }
        return key_of(text.segments, params, made_by)

    async def encoded(
        self, source: SegmentSource, params: SpeechParams, usage: Usage
    ) -> AsyncGenerator[bytes]:
        """The encoded stream as it is generated; a chunk of PCM holds whole 16-bit samples."""
        async with aclosing(self.encoded_parts(source, params, usage)) as parts:
            async for _, chunk in parts:
                yield chunk

    async def encoded_parts(
        self, source: SegmentSource, params: SpeechParams, usage: Usage
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """The same, each chunk with the number of its part, as `params.split` says."""
        pipeline = self.pipeline
        playout_rate = pipeline.playout_rate(params)
        with self.admission.admitted(), self.metrics.utterance(usage, params, playout_rate) as timer:
            async with aclosing(self._encode(pipeline, source, params, usage)) as parts:
                async for part, chunk in parts:
                    timer.sending(chunk)
                    yield part, chunk
                    timer.resumed()

    async def _encode(
        self, pipeline: SpeechPipeline, source: SegmentSource, params: SpeechParams, usage: Usage
    ) -> AsyncGenerator[tuple[int, bytes]]:
        part: _Part | None = None  # none for a text with nothing to say: not even a file
        segment = 0
        async with aclosing(pipeline.speak(source, params, usage)) as samples:
            async for pcm in samples:
                self.admission.check_not_drained()
                before, segment = segment, max(0, len(usage.segment_starts) - 1)  # silence may come first
                ended = part
                if part is None or (segment > before and _splits(params.split, usage.segments[before])):
                    part = _Part(pipeline.sample_rate, params, self._threads)
                    usage.part_starts.append(segment)
                if ended and ended is not part and (chunk := await ended.end()):
                    yield len(usage.part_starts) - 2, chunk
                if chunk := await part.add(pcm):
                    yield len(usage.part_starts) - 1, chunk
        if part and (chunk := await part.end()):
            yield len(usage.part_starts) - 1, chunk


def _splits(split: Split, segment: Segment) -> bool:
    """Whether a part ends with this segment."""
    return split == "clause" or (split == "sentence" and segment.ends_sentence)


class _Part:
    """One encoded file, or one encoded stream."""

    def __init__(self, source_rate: int, params: SpeechParams, threads: EncoderThreads) -> None:
        self._threads = threads
        encoder = open_encoder(
            params.format,
            source_rate=source_rate,
            sample_rate=params.sample_rate,
            speed=params.speed,
            whole=params.whole_file,
        )
        self._encoder = traced_encoder(encoder, params.format)
        self._held: list[bytes] | None = [] if params.whole_file else None

    async def add(self, pcm: Pcm) -> bytes:
        chunk = await self._run(partial(self._encoder.write, pcm))
        if self._held is None:
            return chunk
        self._held.append(chunk)
        return b""

    async def end(self) -> bytes:
        if self._held is None:
            return await self._run(self._encoder.flush)
        held = self._held
        # Joining a long file takes tens of milliseconds.
        return await self._threads.run(lambda: b"".join([*filter(None, held), self._encoder.flush()]))

    async def _run(self, call: Callable[[], bytes]) -> bytes:
        return call() if self._encoder.light else await self._threads.run(call)


async def _close(pipeline: SpeechPipeline) -> None:
    await pipeline.token_source.aclose()
    await asyncio.to_thread(pipeline.codec.close)


def _load_codec(settings: Settings, on_death: Callable[[OrpheusError], None], model: ServedModel) -> Codec:
    """The one that ORPHEUS_CODEC names, or the model's own. SetupError if it cannot speak what the model generates."""
    folder = weights.find_codec(settings.model_copy(update={"codec": settings.codec or model.codec}))
    check_fit(model, read_config(folder))
    return Codec.load(folder, settings, on_death)
