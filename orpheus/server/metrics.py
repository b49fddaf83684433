"""Prometheus metrics of tier 2. Each `SpeechMetrics` has its own registry, so two servers in a process count apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary
from prometheus_client.exposition import generate_latest

from orpheus.server import request_context
from orpheus.tts.params import SpeechParams
from orpheus.tts.usage import FIRST_BYTE_PARTS, Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
_FACTORS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 4)


class SpeechMetrics:
    """Counters, histograms and gauges of one tier 2, named `orpheus_speech_…`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)  # memory, descriptors and processor time, on Linux
        # By counter: a scrape shows a counter's labels only once it has been used.
        self.labels: dict[str, tuple[str, ...]] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            if labels:
                self.labels[f"orpheus_speech_{name}"] = labels
            return Counter(f"orpheus_speech_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"orpheus_speech_{name}", text, buckets=buckets, registry=registry)

        self.requests = counter(
            "requests",
            "Finished requests; a WebSocket's status is its close code",
            "route",
            "status",
            "format",
        )
        self.rejected = counter("rejected", "Requests rejected for lack of capacity")
        self.cancelled = counter("cancelled", "Requests whose client disconnected before the end")
        self.failed = counter("failed", "Requests that failed, before or after the first byte")
        self.unknown_voices = counter(
            "unknown_voices", "Unmute connections that asked for an unknown voice and got the default one"
        )
        self.cache = counter("cache", "Cache lookups by requests with a seed: hit or miss", "result")
        self.cache_bytes = counter(
            "cache_bytes", "Size of responses read from the cache, and written", "work"
        )
        self.cache_errors = counter(
            "cache_errors",
            "Responses that could not be read from the cache or written, and entries found damaged",
            "work",
        )
        self._first_audio_s = histogram(
            "first_audio_seconds", "Time from the text to the first samples", _FIRST_S
        )
        self._first_byte_s = histogram(
            "first_byte_seconds", "Time from the text to the first byte sent to the client", _FIRST_S
        )
        waits = Summary(
            "orpheus_speech_first_byte_part_seconds",
            "Time to the first byte, by part",
            ["part"],
            registry=registry,
        )
        self._first_byte_part_s = {part: waits.labels(part) for part in FIRST_BYTE_PARTS}
        self._factor = histogram(
            "real_time_factor",
            "Time spent generating audio / its duration; below 1 is faster than real time",
            _FACTORS,
        )
        self._underruns = counter("underruns", "Gaps heard by a client that plays the audio in real time")
        self._underrun_s = counter("underrun_seconds", "Silence in such gaps")
        self._audio_s = counter("audio_seconds", "Playing time of the audio sent")
        self._bytes = counter("bytes", "Size of the audio sent, as encoded", "format")
        self._segments = counter("segments", "Text segments spoken")
        self._regenerated = counter(
            "regenerated", "Segments generated a second time because the first attempt failed"
        )
        self._truncated = counter("truncated", "Segments cut off by their token limit")
        self._removed_tags = counter(
            "removed_tags", "Tags removed from texts because the voice does not support them"
        )
        self._left_out_chars = counter(
            "left_out_chars", "Letters left out of texts because the voice cannot speak their script"
        )
        self._resyncs = counter("resyncs", "Times the tokens did not form whole frames")
        self._active = Gauge("orpheus_speech_active", "Utterances in progress", registry=registry)
        self._waiting = Gauge(
            "orpheus_speech_waiting", "Utterances in progress that have sent no audio yet", registry=registry
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        Gauge(f"orpheus_speech_{name}", text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in the exposition format, UTF-8."""
        return generate_latest(self.registry)

    @contextmanager
    def utterance(self, usage: Usage, params: SpeechParams, samples_per_s: float) -> Iterator[UtteranceTimer]:
        """Measures one utterance while the body runs; `samples_per_s` is the rate of playout, speed included."""
        sent_bytes = self._bytes.labels(params.format)

        def sent(audio_s: float, size: int) -> None:
            self._audio_s.inc(audio_s)
            sent_bytes.inc(size)

        timer = UtteranceTimer(usage, samples_per_s, self._first_byte, sent)
        self._active.inc()
        self._waiting.inc()
        try:
            yield timer
        finally:
            self._active.dec()
            if timer.first_byte_s is None:
                self._waiting.dec()
            self._add(timer, usage)
            if not params.whole_file:  # a file is not played while it is made
                self._underruns.inc(usage.playout.underruns)
                self._underrun_s.inc(usage.playout.underrun_s)

    def _first_byte(self, seconds: float) -> None:
        self._waiting.dec()
        self._first_byte_s.observe(seconds)
        if (context := request_context.current.get()) is not None:
            context.first_byte()

    def _add(self, timer: UtteranceTimer, usage: Usage) -> None:
        audio_s = usage.samples / timer.samples_per_s
        if usage.first_audio_s is not None:
            self._first_audio_s.observe(usage.first_audio_s)
        if timer.first_byte_s is not None:
            for part, seconds in usage.first_byte_parts_s.items():
                self._first_byte_part_s[part].observe(seconds)
        if audio_s:
            self._factor.observe(timer.work_s / audio_s)
        self._segments.inc(len(usage.segments))
        self._regenerated.inc(usage.regenerated_segments)
        self._truncated.inc(usage.truncated_segments)
        self._removed_tags.inc(usage.removed_tags)
        self._left_out_chars.inc(usage.left_out_chars)
        self._resyncs.inc(usage.resyncs)
        if (context := request_context.current.get()) is not None:
            context.add_usage(usage, audio_s, timer.work_s)


class UtteranceTimer:
    """Separates the time spent on an utterance from the time spent waiting for its client."""

    def __init__(
        self,
        usage: Usage,
        samples_per_s: float,
        on_first: Callable[[float], None],
        on_sent: Callable[[float, int], None],
    ) -> None:
        """`on_first` gets the seconds to the first byte, `on_sent` each chunk's seconds of audio and its bytes."""
        self.samples_per_s = samples_per_s
        self.work_s = 0.0  # generating audio; excludes waiting for a client that reads or writes slowly
        self.first_byte_s: float | None = None
        self._usage = usage
        self._on_first = on_first
        self._on_sent = on_sent
        self._sent_samples = 0
        self._excused_s = 0.0
        self._resumed_s = time.monotonic()

    def sending(self, chunk: bytes) -> None:
        """`chunk` is about to be sent; it is assumed to hold all samples generated since the previous one."""
        now_s = time.monotonic()
        waited_s = self._usage.waited_s - self._excused_s
        self._excused_s += waited_s
        self.work_s += max(0.0, now_s - self._resumed_s - waited_s)
        if self.first_byte_s is None:
            self.first_byte_s = now_s - self._usage.started_s
            self._usage.reach("encoding", now_s)
            self._on_first(self.first_byte_s)
        samples = self._usage.samples - self._sent_samples
        self._sent_samples += samples
        self._on_sent(samples / self.samples_per_s, len(chunk))

    def resumed(self) -> None:
        """The chunk was accepted; work on the next one begins."""
        self._resumed_s = time.monotonic()
