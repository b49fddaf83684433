"""The spans of this process, kept in memory, and where each belongs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orpheus import tracing
from orpheus.otel import Tracing
from tests.support.waiting import eventually


class Traces:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def clear(self) -> None:
        self._exporter.clear()

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that are over, in the order of their beginnings."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[ReadableSpan]:
        eventually(lambda: len(self.named(name)) >= count)
        return self.named(name)

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        return [span for span in self.spans if span.parent and span.parent.span_id == parent.context.span_id]

    def tree(self, top: ReadableSpan) -> list[str]:
        """The names below it, indented by a dot a level."""
        return [
            line
            for span in self.below(top)
            for line in (span.name, *(f".{name}" for name in self.tree(span)))
        ]


@contextmanager
def recorded() -> Iterator[Traces]:
    """Applications that are made while the body runs are traced, whatever the environment says."""
    traces = Traces()
    tracing.use(Tracing(traces.provider))
    try:
        yield traces
    finally:
        tracing.use(None)


def attributes(span: ReadableSpan) -> dict[str, object]:
    """Ours without their prefix."""
    return {name.removeprefix("orpheus."): value for name, value in (span.attributes or {}).items()}
