"""OpenTelemetry itself: OTEL_ variables → a tracer provider. Imported by tracing.py alone, once tracing is asked for.

Spans are exported in a thread, from a queue that drops what does not fit. A collector that is gone costs a line of the
log a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import Attributes

from orpheus import __version__
from orpheus.errors import OrpheusError, SetupError
from orpheus.redaction import Redactor

FLUSH_S = 0.5  # at the end: within what `orpheus serve` leaves a tier after draining
REPORT_EVERY_S = 60.0
MAX_REPORT_CHARS = 200
# Complain of headers that a client sent, which would take the turn of what the operator can mend.
OF_CLIENTS = ("opentelemetry.trace.", "opentelemetry.baggage.", "opentelemetry.propagators.")
EXPORTERS = "opentelemetry_traces_exporter"  # the group of entry points that OTEL_TRACES_EXPORTER names
PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
# Of a request, what could tell who asks, with which key, or for which text: `?api_key=…&input=…`.
PRIVATE = {"url.path", "url.query", "server.address", "server.port", "http.request.method_original"}

log = logging.getLogger(__name__)


def start(service: str) -> Tracing:
    """As the environment says: exporter, sampler, limits, resource. SetupError if it names what is not there."""
    ours = Resource.create({"service.name": service, "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [_Reports()], False
    for exporter in _exporters():
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _exporters() -> Iterator[SpanExporter]:
    for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").lower().split(","):
        given = name.strip()
        if given == "otlp":
            protocol = (
                os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
                or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
                or "http/protobuf"
            )
            given = PROTOCOLS.get(protocol, protocol)
        if given == "otlp_proto_grpc" and not entry_points(group=EXPORTERS, name=given):
            raise SetupError(
                "OTLP over gRPC needs another package: pip install opentelemetry-exporter-otlp-proto-grpc, or set "
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf and the port for that, usually 4318."
            )
        found = list(entry_points(group=EXPORTERS, name=given))
        if not found:
            known = ", ".join(sorted({"otlp", *(entry.name for entry in entry_points(group=EXPORTERS))}))
            raise SetupError(
                f"OTEL_TRACES_EXPORTER={given!r} is not known here: set one of {known}, or none."
            )
        yield found[0].load()()


class Tracing:
    """The spans of one provider. tracing.py says what each method is for."""

    def __init__(self, provider: TracerProvider) -> None:
        self.for_requests = _Discreet(provider)
        self._provider = provider
        self._tracer = provider.get_tracer("orpheus", __version__)

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
        span = self._tracer.start_span(name, attributes=_named(attributes))
        with _ended(span), trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield

    @contextmanager
    def call(self, name: str, attributes: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_named(attributes))
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span))
        with _ended(span):
            yield headers

    def record(
        self,
        name: str,
        since_s: float,
        until_s: float,
        below: Context | None,
        error: BaseException | None,
        attributes: Mapping[str, Any],
    ) -> None:
        span = self._tracer.start_span(name, below, attributes=_named(attributes), start_time=_ns(since_s))
        if error is not None:
            _fail(span, error)
        span.end(_ns(until_s))

    def note(self, error: BaseException | None, attributes: Mapping[str, Any]) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(_named(attributes))
            if error is not None:
                _fail(span, error)
            elif attributes.get("outcome") == "cancelled":
                span.set_status(StatusCode.OK)  # which is final: FastAPI would call it an error

    def here(self) -> Context:
        return context.get_current()

    def trace_id(self) -> str | None:
        current = trace.get_current_span().get_span_context()
        return trace.format_trace_id(current.trace_id) if current.is_valid else None

    async def flush(self) -> None:
        """Returns after FLUSH_S at the latest: the thread that sends does not keep the process."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # so that who stops waiting for it does not cancel it

        def send() -> None:
            try:
                self._provider.force_flush()
            finally:
                done.set_result(None)

        threading.Thread(target=send, name="orpheus-traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await asyncio.wrap_future(done)


class _Discreet(trace.TracerProvider):
    """What makes the spans of requests, without what is private in them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **named: Any) -> trace.Tracer:
        return _DiscreetTracer(self._provider.get_tracer(*args, **named))


class _DiscreetTracer(trace.Tracer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        *args: Any,
        **named: Any,
    ) -> Span:
        kept = {key: value for key, value in (attributes or {}).items() if key not in PRIVATE}
        return self._tracer.start_span(name, context, kind, kept, *args, **named)

    def start_as_current_span(self, *args: Any, **named: Any) -> Any:
        raise NotImplementedError("The spans of requests end with their last byte: start_span.")


class _Reports(logging.Handler):
    """What OpenTelemetry complains of, above all of a collector that does not answer: one line a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._reported_s: float | None = None
        given = [value for name, value in os.environ.items() if re.fullmatch("OTEL_.*_HEADERS", name)]
        self._redact = Redactor(part for value in given for part in re.split("[,=]", value))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(OF_CLIENTS):
            return
        now_s = time.monotonic()
        if self._reported_s is None or now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            said = " ".join(self._redact(record.getMessage()).split())[:MAX_REPORT_CHARS]
            log.warning("OpenTelemetry, at most once a minute: %s", said)


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Names without a dot are ours."""
    return {
        name if "." in name else f"orpheus.{name}": value
        for name, value in attributes.items()
        if value is not None
    }


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    """Ends it with the body, and tells whether that failed, but not in which words."""
    try:
        yield
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    """By its kind alone. One who leaves is no error."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute("orpheus.outcome", "cancelled")
        return
    kind = error.code if isinstance(error, OrpheusError) and error.code else type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, kind)


def _ns(monotonic_s: float) -> int:
    """A time of `time.monotonic` in nanoseconds since 1970."""
    return time.time_ns() - round((time.monotonic() - monotonic_s) * 1e9)
