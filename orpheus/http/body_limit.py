"""Rejects request bodies longer than MAX_BODY_BYTES, recordings longer than MAX_RECORDING_BYTES, with a 413, whatever
their Content-Length claims, and JSON of more than MAX_JSON_PARTS with a 400.

Pure ASGI. A body is read when its route asks for it, and then to its end, since every route needs all of it: the limit
bounds that memory, a route never sees half a body, and that of an unknown route is not read at all.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus.errors import BadRequest, OrpheusError, RequestError, TooLarge
from orpheus.http.responses import error_response

MAX_BODY_BYTES = 1 << 20  # a long chapter; also the longest WebSocket message
SPEECH_TO_SPEECH = "/v1/audio/speech-to-speech"  # the route that takes recordings
MAX_RECORDING_BYTES = 20 << 20  # ten minutes at 16 kHz in 16 bits, the longest that is heard
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
        headers = Headers(scope=scope)
        recording = scope["path"] == SPEECH_TO_SPEECH
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy may see another request in what follows.
            await _refuse(
                BadRequest("Send Content-Length or Transfer-Encoding, not both."), scope, receive, send
            )
            return
        body: bytes | None = None
        error: RequestError | None = None

        async def whole() -> Message:
            nonlocal body, error
            if body is not None:
                return await receive()
            try:
                body = await self._read(headers, receive, recording)
                if not recording:  # which is never read as JSON
                    check_json_parts(body)
            except RequestError as raised:
                error = raised
                raise
            except ClientDisconnect:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_unless_refused(message: Message) -> None:
            if error is None:  # frameworks make a 400 of any error in the body
                await send(message)

        try:
            await self._app(scope, whole, send_unless_refused)
        except Exception:
            if error is None:
                raise
        if error is not None:
            await _refuse(error, scope, receive, send)

    async def _read(self, headers: Headers, receive: Receive, recording: bool) -> bytes:
        limit = MAX_RECORDING_BYTES if recording else self._max_bytes
        advice = "a compressed recording, or a shorter one" if recording else "the text in parts"
        too_large = TooLarge(f"The body is longer than {limit} bytes. Send {advice}.")
        claimed = headers.get("content-length", "")
        if claimed.isdecimal() and int(claimed) > limit:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)


async def _refuse(error: OrpheusError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = error_response(error)
    answer.headers["Connection"] = "close"  # what is left of the body is not read
    await answer(scope, receive, send)
