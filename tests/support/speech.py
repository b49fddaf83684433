"""Requests to `POST /v1/audio/speech` in front of the scripted tier 1, and its errors."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.upstream import SPEECH_FRAMES

PATH = "/v1/audio/speech"
SAMPLES = SPEECH_FRAMES * 2048  # in the answer to `ask()`


def ask(**body: Any) -> dict[str, Any]:
    """The body of a request that succeeds, with these fields added or replaced."""
    return {"model": "tts-1", "input": "Hello there.", "voice": "tara"} | body


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in an answer, which must have OpenAI's form."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    found: dict[str, Any] = body["error"]
    return found
