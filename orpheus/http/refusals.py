"""What another server's error says, in whatever shape: the start of its body → its message, in bounded time and memory."""

from __future__ import annotations

import asyncio
import json

import httpx

ERROR_BODY_TIMEOUT_S = 1.0  # what has come of an error's explanation by then must do,
ERROR_BODY_BYTES = 16 * 1024  # as must this much of it
MAX_SAID_CHARS = 300  # of another server's own words in an error


async def start_of(response: httpx.Response) -> bytes:
    """As much of an error's body as comes soon; empty if it is compressed, which we did not ask for."""
    body = bytearray()
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return b""
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= ERROR_BODY_BYTES:
                    break
    except (httpx.HTTPError, TimeoutError):
        pass  # the status is what counts
    return bytes(body[:ERROR_BODY_BYTES])


def message_in(body: bytes) -> str | None:
    """The message in an error body of any server; None if it is not JSON."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(parsed, dict):
        parsed = next((parsed[name] for name in ("error", "detail") if parsed.get(name)), parsed)
    return sentence_of(parsed)


def sentence_of(error: object) -> str:
    """What the value of an `error` says."""
    said = error.get("message") or "" if isinstance(error, dict) else error
    return str(said)[:MAX_SAID_CHARS]
