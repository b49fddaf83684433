"""Events of the utterance queue → JSON text frames, for the session and the plain protocol."""

from __future__ import annotations

import json
from typing import Any

from orpheus.errors import OrpheusError
from orpheus.server.utterance_queue import (
    Event,
    PartDone,
    PartStarted,
    UtteranceCancelled,
    UtteranceDone,
    UtteranceFailed,
    WordStarted,
)


def event_json(event: Event, format: str) -> str:
    """Any event except `Audio`; `format` is the format of the audio."""
    return json.dumps(_body(event, format))


def error_json(error: OrpheusError) -> str:
    """`{"type": "error", "message": …, "code": …}`."""
    return json.dumps(_error(error))


def _error(error: OrpheusError, **more: Any) -> dict[str, Any]:
    return {"type": "error", "message": error.message, "code": error.code, "param": error.param, **more}


def _body(event: Event, format: str) -> dict[str, Any]:
    match event:
        case PartStarted():
            return {
                "type": "audio.start",
                "utterance_index": event.utterance,
                "sentence_index": event.part,
                "sentence_text": event.text,
                "format": format,
                "sample_rate": event.sample_rate,
                "channels": 1,
            }
        case WordStarted(number, word):
            return {
                "type": "audio.word",
                "utterance_index": number,
                "text": word.text,
                "start_s": round(word.start_s, 3),
                "stop_s": round(word.stop_s, 3),
            }
        case PartDone():
            return {
                "type": "audio.done",
                "utterance_index": event.utterance,
                "sentence_index": event.part,
                "total_bytes": event.bytes,
                "duration_s": round(event.duration_s, 3),
                "error": event.failed,
            }
        case UtteranceDone():
            return {
                "type": "session.done",
                "utterance_index": event.utterance,
                "total_sentences": event.parts,
                **({"left_out_chars": event.left_out_chars} if event.left_out_chars else {}),
            }
        case UtteranceCancelled():
            return {
                "type": "audio.cancelled",
                "utterance_index": event.utterance,
                "sent_s": event.sent_s,
            }
        case UtteranceFailed():
            return _error(event.error, utterance_index=event.utterance, partial_audio=event.partial)
        case _:
            raise TypeError(event)
