"""What every route of tier 2 shares: the pipeline once it is loaded, and how many may use it at once.

Knows nothing of HTTP. Loading runs beside the server, so that health can say what is still missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orpheus import weights
from orpheus.codec import Codec
from orpheus.codec.pcm import Pcm
from orpheus.errors import BadRequest, NotReady, OrpheusError
from orpheus.sampling import Sampling
from orpheus.server import request_context
from orpheus.server.admission import Admission
from orpheus.server.metrics import SpeechMetrics
from orpheus.settings import Settings
from orpheus.text import SegmentedText, StreamingSegmenter
from orpheus.tts.encode import Format, encoded_rate, open_encoder
from orpheus.tts.pipeline import Manner, SpeechPipeline
from orpheus.tts.token_source import TokenSource
from orpheus.tts.usage import Usage
from orpheus.voices import DEFAULT_VOICE, Voice, find_voice, languages_of

log = logging.getLogger(__name__)

MAX_LIVE_CHARS = 16_384  # of one utterance over a WebSocket: about 20 minutes of speech
LEAD_SILENCE_MS = 30.0  # before the first word, where Orpheus itself leaves 400 to 600


@dataclass(frozen=True)
class Utterance:
    """What to speak and how: every protocol's request in one form."""

    text: str
    voice: str = DEFAULT_VOICE
    format: Format = "pcm"
    speed: float = 1.0
    sample_rate: int | None = None  # Hz; None is ORPHEUS_SAMPLE_RATE
    sampling: Mapping[str, Any] = field(default_factory=dict)  # what the request says itself
    max_tokens: int | None = None  # a segment; None is ORPHEUS_MAX_TOKENS
    normalize: bool = False  # numbers written out before they reach the model
    lead_silence_ms: float | None = None  # None is ORPHEUS_LEAD_SILENCE_MS
    whole: bool = False  # all at once, in a container with its true length
    apart: bool = False  # each segment a file, or a stream, of its own


@dataclass(frozen=True)
class Prepared:
    """An utterance in which nothing is wrong."""

    text: str
    spoken: SegmentedText | StreamingSegmenter
    manner: Manner
    format: Format
    speed: float
    sample_rate: int  # Hz, as it will be encoded
    whole: bool
    apart: bool


Load = Callable[[], Any]
Guard = Callable[[Load], Load]  # wraps a load, to learn of its failure


def unguarded(load: Load) -> Load:
    return load


class SpeechService:
    """Settings, token source and codec of one running tier 2."""

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], TokenSource],
        load_codec: Callable[[], Codec],
    ) -> None:
        """`open_source` and `load_codec` may block: they run in a thread, after the server listens."""
        self.settings = settings
        self.languages = languages_of(weights.model_name(settings))
        self.on_ready: Callable[[], None] = lambda: None
        self._open_source, self._load_codec = open_source, load_codec
        self._pipeline: SpeechPipeline | None = None
        self._source: TokenSource | None = None
        self._codec: Codec | None = None
        self._failure: OrpheusError | None = None
        self.admission = Admission(settings.max_requests, settings.drain_s)
        self.drain = self.admission.drain
        self.metrics = SpeechMetrics()
        self.metrics.gauge("codec_streams", "Codec streams open now", self._codec_streams)

    @classmethod
    def over_http(cls, settings: Settings, guard: Guard = unguarded) -> SpeechService:
        """Tier 2 in front of `ORPHEUS_LLAMA_ENDPOINT`."""
        from orpheus.tts.token_source import HttpTokenSource

        return cls(settings, lambda: HttpTokenSource(settings), guard(lambda: _load_codec(settings)))

    @classmethod
    def in_process(
        cls,
        settings: Settings,
        guard: Guard = unguarded,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> SpeechService:
        """Both tiers in this process, with no HTTP between them. `on_death` learns why the engine will never answer."""
        from orpheus.tts.token_source import EngineTokenSource

        def open_engine() -> TokenSource:
            from orpheus.llama.engine import Engine

            return EngineTokenSource(Engine.load(weights.find_model(settings), settings, on_death))

        return cls(settings, guard(open_engine), guard(lambda: _load_codec(settings)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads in the background while the body runs; frees everything after it."""
        self._loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            self._loading.cancel()
            await asyncio.wait([self._loading])
            if self._source:
                await self._source.aclose()
            if self._codec:
                await asyncio.to_thread(self._codec.close)

    async def _load(self) -> None:
        try:
            self._source = await asyncio.to_thread(self._open_source)
            self._codec = await asyncio.to_thread(self._load_codec)
            self._pipeline = SpeechPipeline(self._source, self._codec, self.settings)
            self.on_ready()
        except OrpheusError as error:
            log.error("%s", error)
            self._failure = error
        except Exception as error:
            log.exception("loading failed")
            self._failure = OrpheusError(f"Loading failed: {error}")

    async def loaded(self) -> None:
        """Return once it is loaded; raise why it could not be. For use within `running`."""
        await asyncio.wait([self._loading])
        if self._failure:
            raise self._failure

    @property
    def failure(self) -> OrpheusError | None:
        """Why loading failed for good, if it did."""
        return self._failure

    def pipeline(self) -> SpeechPipeline:
        """The pipeline; NotReady until it is loaded, and once the server stops."""
        self.admission.check_open()
        if self._pipeline is None:
            raise NotReady(str(self._failure) if self._failure else "The codec is still loading.")
        return self._pipeline

    async def problem(self) -> str | None:
        """What keeps a request from being served now, in a sentence; None where nothing does."""
        try:
            self.pipeline()
            assert self._source is not None
            await self._source.check()
        except OrpheusError as error:
            return str(error)
        return None

    def codec_report(self) -> dict[str, object]:
        return self._codec.report() if self._codec else {}

    def _codec_streams(self) -> float:
        return float(str(self.codec_report().get("open_streams", 0)))

    def prepare(self, utterance: Utterance) -> Prepared:
        """Everything about a request that can be wrong, checked before any work."""
        text, most = utterance.text, self.settings.max_input_chars
        if len(text) > most:
            raise BadRequest(
                f"input has {len(text)} characters; the most is {most}. Send it in parts, "
                "or raise ORPHEUS_MAX_INPUT_CHARS.",
                param="input",
                code="string_above_max_length",
            )
        voice = find_voice(utterance.voice, self.languages)
        spoken = self.pipeline().split(text, voice, normalize=utterance.normalize)
        return self._prepared(utterance, voice, spoken, patient=False)

    def prepare_live(self, utterance: Utterance) -> Prepared:
        """The same for a text that is still to come: its `spoken` takes it."""
        voice = find_voice(utterance.voice, self.languages)
        live = self.pipeline().live(voice, most_chars=MAX_LIVE_CHARS, normalize=utterance.normalize)
        return self._prepared(utterance, voice, live, patient=True)

    def _prepared(
        self, utterance: Utterance, voice: Voice, spoken: SegmentedText | StreamingSegmenter, *, patient: bool
    ) -> Prepared:
        settings, text = self.settings, utterance.text
        defaults = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }
        lead_ms = utterance.lead_silence_ms
        job = Prepared(
            text=text,
            spoken=spoken,
            manner=Manner(
                voice=voice,
                sampling=Sampling(**(defaults | dict(utterance.sampling))),
                max_tokens=utterance.max_tokens or settings.max_tokens,
                lead_silence_s=(LEAD_SILENCE_MS if lead_ms is None else lead_ms) / 1000,
                patient=patient,
            ),
            format=utterance.format,
            speed=utterance.speed,
            sample_rate=encoded_rate(utterance.format, utterance.sample_rate or settings.sample_rate),
            whole=utterance.whole,
            apart=utterance.apart,
        )
        if (known := request_context.current.get()) is not None:
            known.voice, known.format = voice.id, job.format
            known.text = (known.text or "") if settings.log_text else None
            known.said(text)
        return job

    async def encoded(self, job: Prepared, usage: Usage) -> AsyncGenerator[bytes]:
        """The encoded stream, as it is made; each chunk holds whole 16-bit samples where it is PCM."""
        async with aclosing(self.encoded_parts(job, usage)) as parts:
            async for _, chunk in parts:
                yield chunk

    async def encoded_parts(self, job: Prepared, usage: Usage) -> AsyncGenerator[tuple[int, bytes]]:
        """The same, with the number of the part each chunk belongs to: 0, or its segment where they are apart."""
        pipeline = self.pipeline()
        heard_rate = pipeline.sample_rate * job.speed
        with self.admission.admitted(), self.metrics.speaking(usage, job.format, heard_rate) as heard:
            async with aclosing(self._encode(pipeline, job, usage)) as parts:
                async for part, chunk in parts:
                    heard.sending(chunk)
                    yield part, chunk
                    heard.resumed()

    async def _encode(
        self, pipeline: SpeechPipeline, job: Prepared, usage: Usage
    ) -> AsyncGenerator[tuple[int, bytes]]:
        part = _Part(pipeline, job)
        samples = pipeline.speak(job.spoken.script(), job.manner, usage)
        number = 0
        async with aclosing(samples):
            async for pcm in samples:
                self.admission.check_not_broken()
                if job.apart and len(usage.edges) - 1 > number:
                    if chunk := await asyncio.to_thread(part.end):
                        yield number, chunk
                    part, number = _Part(pipeline, job), len(usage.edges) - 1
                if chunk := await asyncio.to_thread(part.add, pcm):
                    yield number, chunk
        if chunk := await asyncio.to_thread(part.end):
            yield number, chunk


class _Part:
    """One file, or one stream, of encoded audio."""

    def __init__(self, pipeline: SpeechPipeline, job: Prepared) -> None:
        self._encoder = open_encoder(
            job.format,
            source_rate=pipeline.sample_rate,
            sample_rate=job.sample_rate,
            speed=job.speed,
            whole=job.whole,
        )
        self._held: list[bytes] | None = [] if job.whole else None

    def add(self, pcm: Pcm) -> bytes:
        chunk = self._encoder.write(pcm)
        if self._held is None:
            return chunk
        self._held.append(chunk)
        return b""

    def end(self) -> bytes:
        return b"".join([*(self._held or ()), self._encoder.flush()])


def _load_codec(settings: Settings) -> Codec:
    return Codec.load(weights.find_codec(settings), settings)
