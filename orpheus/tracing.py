"""Where the time of a request goes, as spans of OpenTelemetry. Nothing of it is loaded unless OTEL_ variables ask for it.

A span is open around a piece of work (`span`, `each`) or told afterwards from times that were noted anyway (`record`),
and never made for a frame. While tracing is off, every function here returns at once, and what runs for each frame is
what would run without this module.

No attribute holds a text, a key or an address. An error is told by its kind: its sentence is in the log, in a line with
the same trace id. Set up once per process, as logging is.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from orpheus.errors import in_a_sentence

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.context import Context

    from orpheus.otel import Tracing

LLAMA, SPEECH = "orpheus-llama", "orpheus-speech"  # unless OTEL_SERVICE_NAME says otherwise
# Any of them turns tracing on, except OTEL_TRACES_EXPORTER=none. OTEL_SDK_DISABLED=true keeps it off.
ASKING = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Attribute = str | int | float | bool | None  # None is left out
P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_on: Tracing | None = None  # of this process; None is off
_nothing = contextlib.nullcontext()
_no_headers: AbstractContextManager[Mapping[str, str]] = contextlib.nullcontext({})


def configure(service: str) -> None:
    """Turn tracing on if OTEL_ variables ask for it; call before the application is made.

    What keeps it from working is a warning in the log: a server speaks without traces too.
    """
    if not _is_asked_for():
        return
    try:
        from orpheus.otel import start

        use(start(service))
    except Exception as error:
        log.warning("no traces are made: %s", in_a_sentence(error))


def _is_asked_for() -> bool:
    given = {name: os.environ.get(name, "").strip().lower() for name in (*ASKING, "OTEL_SDK_DISABLED")}
    if given["OTEL_SDK_DISABLED"] == "true" or given["OTEL_TRACES_EXPORTER"] == "none":
        return False
    return any(given[name] for name in ASKING)


def use(tracing: Tracing | None) -> None:
    """Trace with this from now on; None turns it off."""
    global _on
    _on = tracing


def is_on() -> bool:
    return _on is not None


def span(name: str, /, **attributes: Attribute) -> AbstractContextManager[None]:
    """A span around the body, below the current one.

    Not for an async generator that is closed in another task than it runs in.
    """
    return _nothing if _on is None else _on.span(name, attributes)


def call(name: str, /, **attributes: Attribute) -> AbstractContextManager[Mapping[str, str]]:
    """A span around a request to another service; it does not become the current one, so a generator may hold it.

    Gives the headers that tell the service of it: `traceparent`, or what OTEL_PROPAGATORS names.
    """
    return _no_headers if _on is None else _on.call(name, attributes)


def each(
    name: str, make: Callable[P, AsyncGenerator[T]], /, **attributes: Attribute
) -> Callable[P, AsyncGenerator[T]]:
    """`make` itself while tracing is off; otherwise each generator that it makes runs within a span."""
    if _on is None:
        return make

    async def made(*args: P.args, **named: P.kwargs) -> AsyncGenerator[T]:
        with span(name, **attributes):
            async with aclosing(make(*args, **named)) as items:
                async for item in items:
                    yield item

    return made


def record(
    name: str,
    since_s: float,
    until_s: float,
    below: Context | None = None,
    error: BaseException | None = None,
    /,
    **attributes: Attribute,
) -> None:
    """A span that is over, from two times of `time.monotonic`; `below` is what `here` gave, or the current span."""
    if _on is not None:
        _on.record(name, since_s, until_s, below, error, attributes)


def note(error: BaseException | None = None, /, **attributes: Attribute) -> None:
    """Add to the current span, and that it failed. Nothing where it is over already."""
    if _on is not None:
        _on.note(error, attributes)


def here() -> Context | None:
    """The current span, for a `record` that is made in another task or thread; None while tracing is off."""
    return None if _on is None else _on.here()


def trace_id() -> str | None:
    """32 hexadecimal digits, for the log; None outside a span."""
    return None if _on is None else _on.trace_id()


def telemetry(is_excluded: Callable[[MutableMapping[str, Any]], bool]) -> TelemetryConfig:
    """For `FastAPI(telemetry=…)`, which makes the spans of requests and WebSockets: only those, and only from here."""
    off: TelemetryConfig = {
        "tracing": False,
        "metrics": False,  # Prometheus has ours
        "logs": False,  # would hold the sentences of errors
        "operation_spans": False,
        "auto_configure": False,  # by variables of its own
    }
    if _on is None:
        return off
    return {**off, "tracing": True, "tracer_provider": _on.for_requests, "exclude": is_excluded}


@asynccontextmanager
async def flushed() -> AsyncIterator[None]:
    """After the body, send what is left, within a bounded time."""
    try:
        yield
    finally:
        if _on is not None:
            await _on.flush()
