"""Counters of the decode thread, exposed as Prometheus text. Each engine has its own registry.

The thread adds to plain numbers; they are converted to metrics only when scraped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

PARTS = ("plan", "decode", "copy", "sample", "publish")
_FIRST_FRAME_S = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


@dataclass
class Stats:
    """Totals since the start. Written by the decode thread, except where noted."""

    steps: int = 0
    passes: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    part_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stop", "length"), 0))
    cancelled: int = 0
    failed: int = 0
    dropped: int = 0  # readers that stopped reading
    reloads: int = 0
    no_room: int = 0  # times llama.cpp had no room in the KV cache
    rejected: int = 0  # written by the event loop


class EngineMetrics(Collector):
    """The metrics of one engine. `stream_counts` returns how many streams are active, waiting and paused."""

    def __init__(self, stats: Stats, streams: int, stream_counts: Callable[[], dict[str, int]]) -> None:
        self._stats = stats
        self._streams = streams
        self._stream_counts = stream_counts
        self._registry = CollectorRegistry(auto_describe=False)
        self.first_frame_s = Histogram(
            "orpheus_first_frame_seconds",
            "From the arrival of a request to its first frame",
            buckets=_FIRST_FRAME_S,
            registry=self._registry,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # memory, descriptors and processor time, on Linux

    def text(self) -> bytes:
        """The exposition format, UTF-8."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield GaugeMetricFamily("orpheus_streams_limit", "Streams that can run at once", value=self._streams)
        for name, value in self._stream_counts().items():
            yield GaugeMetricFamily(f"orpheus_streams_{name}", f"Streams {name} now", value=value)
        step = SummaryMetricFamily("orpheus_step_seconds", "Time of a step, by part", labels=["part"])
        for part, seconds in stats.part_s.items():
            step.add_metric([part], count_value=stats.steps, sum_value=seconds)
        yield step
        for name, text, value in (
            ("orpheus_passes", "Passes over the weights; one per step is ideal", stats.passes),
            ("orpheus_rows", "Streams decoded, summed over steps", stats.rows),
            ("orpheus_prompt_tokens", "Prompt tokens read", stats.prompt_tokens),
            ("orpheus_tokens", "Tokens generated", stats.tokens),
            (
                "orpheus_rejected",
                "Requests refused because every stream was busy and the queue full",
                stats.rejected,
            ),
            ("orpheus_cancelled", "Streams whose client left", stats.cancelled),
            ("orpheus_dropped", "Streams dropped because their client stopped reading", stats.dropped),
            ("orpheus_failed", "Streams that ended with an error", stats.failed),
            ("orpheus_reloads", "Times the context was recreated after a fatal error", stats.reloads),
            ("orpheus_no_kv_room", "Times llama.cpp had no room for a batch", stats.no_room),
        ):
            yield CounterMetricFamily(name, text, value=value)
        finished = CounterMetricFamily("orpheus_finished", "Streams that ended normally", labels=["reason"])
        for reason, count in stats.finished.items():
            finished.add_metric([reason], count)
        yield finished
