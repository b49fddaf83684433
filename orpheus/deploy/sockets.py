"""What our own server does for WebSockets and Modal's does not.

- A refused handshake is answered with a status and a sentence: an extension of ASGI, which Modal does not offer. There the
  socket is accepted and closed with the code and the sentence instead.
- A message has a longest length. Modal's is 2 MiB both ways, and some of ours repeat what the client sent: theirs end at
  one, as elsewhere, so that ours stay below two.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus.http.body_limit import MAX_BODY_BYTES
from orpheus.server.offers import realtime_answer
from orpheus.server.sockets.connection import FAILED, POLICY, TOO_BIG, TRY_AGAIN

EXTENSION = "websocket.http.response"
CODES = {
    429: TRY_AGAIN,
    503: TRY_AGAIN,
    500: FAILED,
    502: FAILED,
}  # by status; others are the client's mistake
MOST_REASON_BYTES = 123  # in a close frame


class SocketRules:
    """Pure ASGI, the outermost layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        refusing = EXTENSION not in (scope.get("extensions") or {})
        status = 0
        body = bytearray()

        async def send_or_close(message: Message) -> None:
            nonlocal status
            if refusing and message["type"] == f"{EXTENSION}.start":
                status = message["status"]
            elif refusing and message["type"] == f"{EXTENSION}.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    named = realtime_answer(scope)
                    await send({"type": "websocket.accept", **({"subprotocol": named} if named else {})})
                    await send(_close(CODES.get(status, POLICY), _reason(bytes(body), status)))
            else:
                await send(message)

        async def receive_within_limits() -> Message:
            message = await receive()
            if _size(message) <= MAX_BODY_BYTES:
                return message
            await send(_close(TOO_BIG, f"a message may have {MAX_BODY_BYTES} bytes: send it in pieces"))
            return {"type": "websocket.disconnect", "code": TOO_BIG}

        await self._app(scope, receive_within_limits, send_or_close)


def _size(message: Message) -> int:
    if text := message.get("text"):
        # Counted only where it may matter: a character has four bytes at most.
        return len(text) if 4 * len(text) <= MAX_BODY_BYTES else len(text.encode(errors="replace"))
    return len(message.get("bytes") or b"")


def _close(code: int, reason: str) -> Message:
    return {"type": "websocket.close", "code": code, "reason": reason}


def _reason(body: bytes, status: int) -> str:
    try:
        parsed: Any = json.loads(body)
        said = str(parsed["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"refused with status {status}"
    return said.encode()[:MOST_REASON_BYTES].decode(errors="ignore")
