"""Facts about the request being served, for its line in the log.

Whichever layer learns one sets it here; the outermost ASGI layer reads them at the end.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from orpheus.tts.usage import Usage

MAX_TEXT_CHARS = 20_000  # in a log line: a WebSocket may stay open all day


@dataclass
class RequestContext:
    """One HTTP request or WebSocket. The utterances of a WebSocket add up."""

    request_id: str
    started_s: float = field(default_factory=time.perf_counter)
    voice: str | None = None
    format: str | None = None
    text: str | None = None  # only with ORPHEUS_LOG_TEXT
    cache: str | None = None  # "hit" | "miss"
    chars: int = 0
    segments: int = 0
    truncated: int = 0
    regenerated: int = 0
    left_out_chars: int = 0  # letters that the voice cannot speak
    audio_s: float = 0.0
    work_s: float = 0.0  # generating audio; excludes waiting for the client
    first_byte_s: float | None = None

    def add_text(self, text: str) -> None:
        """Count more text to be spoken, and keep up to MAX_TEXT_CHARS of it."""
        self.chars += len(text)
        if self.text is not None:
            self.text = (self.text + text)[:MAX_TEXT_CHARS]

    def add_usage(self, usage: Usage, audio_s: float, work_s: float) -> None:
        """Count one utterance that has ended."""
        self.audio_s += audio_s
        self.work_s += work_s
        self.segments += len(usage.segments)
        self.truncated += usage.truncated_segments
        self.regenerated += usage.regenerated_segments
        self.left_out_chars += usage.left_out_chars

    def first_byte(self) -> None:
        """Note the time of the first byte; later calls change nothing."""
        if self.first_byte_s is None:
            self.first_byte_s = time.perf_counter() - self.started_s

    def fields(self) -> dict[str, object]:
        """For the log; fields that do not apply are None."""
        is_speech = self.voice is not None
        return {
            "voice": self.voice,
            "format": self.format,
            "chars": self.chars if is_speech else None,
            "segments": self.segments if is_speech else None,
            "first_byte_ms": None if self.first_byte_s is None else round(self.first_byte_s * 1000, 1),
            "audio_s": round(self.audio_s, 3) if is_speech else None,
            "rtf": round(self.work_s / self.audio_s, 3) if self.audio_s else None,
            "truncated": self.truncated or None,
            "regenerated": self.regenerated or None,
            "left_out_chars": self.left_out_chars or None,
            "cache": self.cache,
            "text": self.text,
        }


current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
