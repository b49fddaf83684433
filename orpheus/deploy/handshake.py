"""Refusals of WebSockets in front of a server that cannot send them.

Elsewhere a refused handshake is answered with a status and a sentence. That is an extension of ASGI, which Modal does not
offer: there the socket is accepted and closed with the code and the sentence instead.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus.server.sockets.connection import FAILED, POLICY, TRY_AGAIN

EXTENSION = "websocket.http.response"
CODES = {429: TRY_AGAIN, 503: TRY_AGAIN, 500: FAILED}  # by status; others are the client's mistake
MOST_REASON_BYTES = 123  # in a close frame


class RefuseByClosing:
    """Pure ASGI. Passes everything on but refusals that the server does not know."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or EXTENSION in (scope.get("extensions") or {}):
            await self._app(scope, receive, send)
            return
        status = 0
        body = bytearray()

        async def send_or_close(message: Message) -> None:
            nonlocal status
            if message["type"] == f"{EXTENSION}.start":
                status = message["status"]
            elif message["type"] == f"{EXTENSION}.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await send({"type": "websocket.accept"})
                    await send(
                        {
                            "type": "websocket.close",
                            "code": CODES.get(status, POLICY),
                            "reason": _reason(bytes(body), status),
                        }
                    )
            else:
                await send(message)

        await self._app(scope, receive, send_or_close)


def _reason(body: bytes, status: int) -> str:
    try:
        parsed: Any = json.loads(body)
        said = str(parsed["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"refused with status {status}"
    return said.encode()[:MOST_REASON_BYTES].decode(errors="ignore")
