"""Log records → lines on standard error, as text or as one JSON object each, with the request they belong to.

Knows nothing of who logs what. What a line says beyond its message comes as `extra={"fields": {...}}`.
"""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar

from orpheus.settings import Settings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure(settings: Settings) -> None:
    """Every logger of this process, uvicorn's too, in the form ORPHEUS_LOG_FORMAT names."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request is what tier 1 writes already
    # uvicorn tells of a WebSocket with its whole query string, which may hold a key; and of a body broken on
    # purpose, which the request's own line explains.
    logging.getLogger("uvicorn.error").addFilter(_is_not_said_better_elsewhere)


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = {**getattr(record, "fields", {})}
        fields.setdefault("request_id", request_id.get())
        record.message = record.getMessage()
        said = "".join(f" {name}={_shown(value)}" for name, value in fields.items() if value is not None)
        # Before a traceback, which `format` puts after the message.
        record = logging.makeLogRecord(record.__dict__ | {"msg": record.message + said, "args": None})
        return super().format(record)


def _shown(value: object) -> str:
    """Quoted where it could be taken for more fields, or for a line of its own: a path, a text."""
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def _is_not_said_better_elsewhere(record: logging.LogRecord) -> bool:
    said = str(record.msg)
    return "WebSocket %s" not in said and said != "ASGI callable returned without completing response."
