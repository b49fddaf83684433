"""Rejects request bodies longer than MAX_BODY_BYTES with a 413, whatever their Content-Length claims.

Pure ASGI. The body is read before the route runs, since every route needs all of it: the limit bounds that memory, and
a route never sees half a body.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus.errors import BadRequest, OrpheusError, TooLarge
from orpheus.http.responses import error_response

MAX_BODY_BYTES = 1 << 20  # a long chapter; also the longest WebSocket message


class BodyLimit:
    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            error: OrpheusError = BadRequest("Send Content-Length or Transfer-Encoding, not both.")
            await _closing(error)(scope, receive, send)  # a proxy may see another request in what follows
            return
        try:
            body = await self._read(headers, receive)
        except ClientDisconnect:
            return
        if body is None:
            error = TooLarge(f"The body is longer than {self._max_bytes} bytes. Send the text in parts.")
            await _closing(error)(scope, receive, send)  # what is left of the body is not read
            return
        replay: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return replay.pop() if replay else await receive()

        await self._app(scope, replayed, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None if it is too long."""
        claimed = headers.get("content-length", "")
        if claimed.isdecimal() and int(claimed) > self._max_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _closing(error: OrpheusError) -> Response:
    answer = error_response(error)
    answer.headers["Connection"] = "close"
    return answer
