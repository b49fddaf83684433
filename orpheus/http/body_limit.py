"""Rejects request bodies longer than MAX_BODY_BYTES with a 413, whatever their Content-Length claims, and JSON of more
than MAX_JSON_PARTS with a 400.

Pure ASGI. The body is read before the route runs, since every route needs all of it: the limit bounds that memory, and
a route never sees half a body.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus.errors import BadRequest, TooLarge
from orpheus.http.responses import error_response

MAX_BODY_BYTES = 1 << 20  # a long chapter; also the longest WebSocket message
THROWN_AWAY_BYTES = 1 << 20
# Arrays and objects in a body or a message. Parsing is one call that nothing interrupts, and half a million of them
# held the event loop up for 0.2 s.
MAX_JSON_PARTS = 50_000


def check_json_parts(text: bytes | str) -> None:
    """BadRequest if JSON has more arrays and objects than may be parsed on the event loop; brackets in strings count."""
    opening: tuple[Any, Any] = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, opening)) > MAX_JSON_PARTS:
        raise BadRequest(
            f"The JSON has more than {MAX_JSON_PARTS} arrays and objects: send a flatter one.",
            code="invalid_json",
        )


class BodyLimit:
    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ClientDisconnect:
            return
        if body is None:
            error = TooLarge(f"The body is longer than {self._max_bytes} bytes. Send the text in parts.")
            answer = error_response(error)
            answer.headers["Connection"] = "close"  # what is left of the body is not read
            await answer(scope, receive, send)
            return
        try:
            check_json_parts(body)
        except BadRequest as refused:
            await error_response(refused)(scope, receive, send)
            return
        replay: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return replay.pop() if replay else await receive()

        await self._app(scope, replayed, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if it is too long.

        Up to THROWN_AWAY_BYTES beyond the limit are read and discarded: closing a connection with unread bytes resets
        it, and the client would never see the answer.
        """
        claimed = Headers(scope=scope).get("content-length", "")
        most = self._max_bytes + THROWN_AWAY_BYTES
        if claimed.isdecimal() and int(claimed) > most:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            size += len(part)
            if size <= self._max_bytes:
                parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts) if size <= self._max_bytes else None
            if size > most:
                return None
