"""The outermost layer of tier 2: gives every request an id, and at its end one log line and its metrics.

Pure ASGI: an error after the first byte must leave the body unfinished, so that the client sees it break. A layer that
wraps responses, as BaseHTTPMiddleware does, would end the body cleanly instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus import logs, tracing
from orpheus.errors import NotReady, OrpheusError
from orpheus.http.leniency import is_head, is_probe
from orpheus.http.responses import UNFORESEEN, error_response, sane_request_id
from orpheus.server import request_context
from orpheus.server.admission import INTERRUPTED
from orpheus.server.metrics import SpeechMetrics
from orpheus.server.request_context import RequestContext

log = logging.getLogger("orpheus.server.request")

_AT_CAPACITY = (429, 1013)
# Close codes that get their own label in the metrics.
_CLOSE_CODES = (1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 1013)
_SEND_ERROR_S = 1.0  # how long a client may take to accept an error


class RequestLog:
    """Handles every error of the application inside it: nothing but a cancellation is raised through it."""

    def __init__(self, app: ASGIApp, metrics: SpeechMetrics, draining: Callable[[], bool]) -> None:
        """`draining`: whether the server shuts down."""
        self._app = app
        self._metrics = metrics
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        context = RequestContext(sane_request_id(Headers(scope=scope)) or f"req_{uuid.uuid4().hex}")
        id_token = logs.request_id.set(context.request_id)
        context_token = request_context.current.set(context)
        tracing.note(request_id=context.request_id)
        request = _TrackedRequest(scope, context, receive, send)
        try:
            try:
                await self._run(request)
            finally:
                self._record(request)
        finally:
            logs.request_id.reset(id_token)
            request_context.current.reset(context_token)

    async def _run(self, request: _TrackedRequest) -> None:
        try:
            await self._app(request.scope, request.receive, request.send)
            return
        except asyncio.CancelledError:
            if not self._draining():  # Modal's way of saying that the client left, and no one else's
                request.left()
                raise
            error: Exception = NotReady(INTERRUPTED)  # the time to finish is over
        except Exception as raised:
            # Starlette wraps an error that comes after the response has started.
            error = raised.__cause__ if isinstance(raised.__cause__, OrpheusError) else raised
        if request.disconnected and isinstance(error, OrpheusError | OSError):
            return
        request.error = error
        if not isinstance(error, OrpheusError):
            log.error("unexpected error in this request", exc_info=error)
            error = OrpheusError(UNFORESEEN)
        # A client that is gone or stopped reading never gets the error; the request is logged either way.
        with contextlib.suppress(OSError, RuntimeError):
            async with asyncio.timeout(_SEND_ERROR_S):
                await request.send_error(error)

    def _record(self, request: _TrackedRequest) -> None:
        """The log line and the metrics of a request that has ended."""
        scope, context = request.scope, request.context
        outcome = request.outcome()
        route = getattr(scope.get("route"), "path", None)
        # Labels must stay few: a client may ask for any path, and close with any code.
        status = request.status or 0
        label = str(status) if status < 1000 or status in _CLOSE_CODES else "other"
        self._metrics.requests.labels(route or "unrouted", label, context.format or "").inc()
        if outcome == "refused" and request.status in _AT_CAPACITY:
            self._metrics.rejected.inc()
        if outcome == "cancelled":
            self._metrics.cancelled.inc()
        # A probe that reports "not ready" has succeeded as a request.
        probe = is_probe(scope) and request.error is None
        if outcome == "failed" and not probe:
            self._metrics.failed.inc()
        tracing.note(request.error, outcome=outcome)
        level = logging.DEBUG if probe else logging.ERROR if request.broken else logging.INFO
        fields = {
            "route": route or scope["path"],
            "status": request.status,
            "outcome": outcome,
            **context.fields(),
            "error": str(request.error) if request.error else None,
            "request_id": context.request_id,
        }
        method = "HEAD" if is_head(scope) else scope.get("method", "WS")
        log.log(level, "%s", method, extra={"fields": fields})


class _TrackedRequest:
    """One HTTP request or WebSocket: passes its messages through and notes how it goes."""

    def __init__(self, scope: Scope, context: RequestContext, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.context = context
        self.status: int | None = None  # of the response, or the close code
        self.complete = False  # the response is sent, or the WebSocket closed by us
        self.disconnected = False  # the client left before that
        self.error: Exception | None = None
        self._websocket = scope["type"] == "websocket"
        self._receive = receive
        self._send = send

    @property
    def broken(self) -> bool:
        """Whether a response had started and failed, with the client still connected."""
        return self.error is not None and self.status is not None and not self.disconnected

    def left(self) -> None:
        """The client left, says the server, without a message."""
        if not self.complete:
            self.disconnected = True
            self.status = self.status or (1006 if self._websocket else 499)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect") and not self.complete:
            self.disconnected = True
            if self._websocket:
                self.status = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            message = {**message, "headers": list(message.get("headers", []))}
            headers = MutableHeaders(raw=message["headers"])
            self.context.first_byte()
            headers["x-request-id"] = self.context.request_id
            headers["openai-processing-ms"] = str(round((self.context.first_byte_s or 0) * 1000))
        elif kind == "websocket.accept":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers["x-request-id"] = self.context.request_id
            message = {**message, "headers": headers.raw}
        elif kind in ("http.response.body", "websocket.http.response.body"):
            self.complete = not message.get("more_body", False)
        elif kind == "websocket.close" and not self.complete:
            self.status, self.complete = message.get("code", 1000), True
        await self._send(message)

    async def send_error(self, error: OrpheusError) -> None:
        """An error response or a close frame; nothing once a response has started, whose missing end is the sign."""
        if self._websocket and not self.complete:
            shutdown = isinstance(error, NotReady)
            code, reason = (
                (1012, "The server is shutting down.") if shutdown else (1011, "The server failed.")
            )
            await self.send({"type": "websocket.close", "code": code, "reason": reason})
        elif not self._websocket and self.status is None:
            await error_response(error)(self.scope, self.receive, self.send)

    def outcome(self) -> str:
        """done | refused (the client must change the request, or try again later) | cancelled | failed"""
        if self.error is not None:
            return "failed"
        if self.disconnected or not self.complete or self.status == 499:
            # A WebSocket may also be closed by its client in good order.
            return "done" if self._websocket and self.status in (1000, 1001) else "cancelled"
        status = self.status or 0
        if self._websocket and status >= 1000:
            if status in (1000, 1001):
                return "done"
            # A server that shuts down closes with 1013 too, but then what it had begun has failed.
            return "failed" if status == 1011 or self.context.audio_s else "refused"
        return "failed" if status >= 500 else "refused" if status >= 400 else "done"
