"""Logging to standard error, as text or as one JSON object per line, with the id of the request a line belongs to.

Further fields are passed as `extra={"fields": {...}}`. No line holds a key, whichever library wrote it and at whatever
level: both formatters pass all they write, tracebacks included, through `orpheus.redaction`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from contextvars import ContextVar
from typing import Any, TextIO

from orpheus import tracing
from orpheus.redaction import Redactor, redacted
from orpheus.settings import Settings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure(settings: Settings) -> None:
    """Set up every logger of this process, including uvicorn's, as ORPHEUS_LOG_FORMAT and ORPHEUS_LOG_LEVEL say."""
    handler = logging.StreamHandler()
    redact = Redactor(settings.secrets)
    handler.setFormatter(JsonLines(redact) if settings.log_format == "json" else TextLines(redact))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # tier 1 already logs a line per request
    logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)


class TextLines(logging.Formatter):
    def __init__(self, redact: Redactor = redacted) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        fields = {**getattr(record, "fields", {})}
        fields.setdefault("request_id", request_id.get())
        fields.setdefault("trace_id", tracing.trace_id())
        record.message = self._redact(record.getMessage())  # before the fields, which a rule must not swallow
        shown = "".join(f" {name}={_quoted(value)}" for name, value in fields.items() if value is not None)
        # As part of the message, so that they come before a traceback.
        record = logging.makeLogRecord(record.__dict__ | {"msg": record.message + shown, "args": None})
        return self._redact(super().format(record))


def _quoted(value: object) -> str:
    """Quoted if it could be mistaken for another field or another line: a path, a text."""
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


class JsonLines(logging.Formatter):
    def __init__(self, redact: Redactor = redacted) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            "trace_id": tracing.trace_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        shown = {name: self._redacted(value) for name, value in line.items() if value is not None}
        return json.dumps(shown, default=str)

    def _redacted(self, value: object) -> object:
        """Before it becomes JSON, so that what is left is still JSON."""
        if isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        return self._redact(str(value))


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Not uvicorn's lines on WebSockets, whose query strings may hold a key, nor on bodies that were broken on purpose.

    The line we log for each request covers both.
    """
    message = str(record.msg)
    return "WebSocket %s" not in message and message != "ASGI callable returned without completing response."


class Unbreakable:
    """A text stream whose reader may go away (`| head`) and whose disk may be full: what cannot be written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
