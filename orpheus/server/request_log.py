"""The outermost layer of tier 2: a request gets an id, and at its end one line in the log and one count.

Knows nothing of keys or speech. Pure ASGI: an error after the first byte must break the body, and a layer that
wraps responses, as BaseHTTPMiddleware does, would turn it into a clean end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orpheus import logs
from orpheus.errors import NotReady, OrpheusError
from orpheus.http.responses import UNFORESEEN, error_response, sane_request_id
from orpheus.server import request_context
from orpheus.server.metrics import SpeechMetrics

log = logging.getLogger("orpheus.server.request")

_PROBES = ("/health", "/ready", "/live", "/metrics")
_FULL = (429, 1013)
_CODES = (1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 1013)  # of closing, that are counted apart
_TELL_S = 1.0  # a client has to take what it is told of a failure


class RequestLog:
    """Handles every error of what it wraps: nothing is raised through it."""

    def __init__(self, app: ASGIApp, metrics: SpeechMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        known = request_context.RequestContext(
            sane_request_id(Headers(scope=scope)) or f"req_{uuid.uuid4().hex}"
        )
        id_token = logs.request_id.set(known.request_id)
        record_token = request_context.current.set(known)
        exchange = _Exchange(scope["type"] == "websocket", known, receive, send)
        try:
            await self._run(scope, exchange)
            self._tell(scope, exchange, known)
        finally:
            logs.request_id.reset(id_token)
            request_context.current.reset(record_token)

    async def _run(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
            return
        except asyncio.CancelledError:  # the server stops, and this request had its time to end
            error: Exception = NotReady("The server stopped before this was finished. Try again.")
        except Exception as raised:
            # Starlette wraps what its handlers could not answer any more.
            error = raised.__cause__ if isinstance(raised.__cause__, OrpheusError) else raised
        if exchange.left and isinstance(error, OrpheusError | OSError):
            return
        exchange.error = error
        if not isinstance(error, OrpheusError):
            log.error("this request met a fault of the server", exc_info=error)
            error = OrpheusError(UNFORESEEN)
        # It may be gone, or take nothing any more: the request is told in the log all the same.
        with contextlib.suppress(OSError, RuntimeError):
            async with asyncio.timeout(_TELL_S):
                if exchange.status is None and not exchange.websocket:
                    await error_response(error)(scope, exchange.receive, exchange.send)
                elif exchange.websocket and not exchange.complete:
                    stops = isinstance(error, NotReady)
                    code, reason = (1012, "The server stops.") if stops else (1011, "The server failed.")
                    await exchange.send({"type": "websocket.close", "code": code, "reason": reason})
        # Else nothing is sent: a body left without its end is what tells the client.

    def _tell(self, scope: Scope, exchange: _Exchange, known: request_context.RequestContext) -> None:
        outcome = exchange.outcome()
        route = getattr(scope.get("route"), "path", None)
        # A client may ask for any path: unrouted ones share a label, or each would be a series of its own.
        # And a client may close with any code.
        status = exchange.status or 0
        shown = str(status) if status < 1000 or status in _CODES else "other"
        labels = (route or "unrouted", shown, known.format or "")
        self._metrics.requests.labels(*labels).inc()
        if outcome == "refused" and exchange.status in _FULL:
            self._metrics.rejected.inc()
        if outcome == "cancelled":
            self._metrics.cancelled.inc()
        # A probe that says "not ready" has done its work.
        probe = scope["path"] in _PROBES and exchange.error is None
        if outcome == "failed" and not probe:
            self._metrics.failed.inc()
        level = logging.DEBUG if probe else logging.ERROR if exchange.broken else logging.INFO
        fields = {
            "route": route or scope["path"],
            "status": exchange.status,
            "outcome": outcome,
            **known.fields(),
            "error": str(exchange.error) if exchange.error else None,
            "request_id": known.request_id,
        }
        log.log(level, "%s", scope.get("method", "WS"), extra={"fields": fields})


class _Exchange:
    """What goes over the wire in one request, seen from outside."""

    def __init__(
        self, websocket: bool, known: request_context.RequestContext, receive: Receive, send: Send
    ) -> None:
        self.websocket = websocket
        self.status: int | None = None  # HTTP's, or the close code
        self.complete = False
        self.left = False  # the client, before we were complete
        self.error: Exception | None = None
        self._known = known
        self._receive = receive
        self._send = send

    @property
    def broken(self) -> bool:
        """Whether an answer began and was not finished, and not because the client left."""
        return self.error is not None and self.status is not None and not self.left

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect") and not self.complete:
            self.left = True
            if self.websocket:
                self.status = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            message = {**message, "headers": list(message.get("headers", []))}
            headers = MutableHeaders(raw=message["headers"])
            self._known.first_byte()
            headers["x-request-id"] = self._known.request_id
            headers["openai-processing-ms"] = str(round((self._known.first_byte_s or 0) * 1000))
        elif kind == "websocket.accept":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers["x-request-id"] = self._known.request_id
            message = {**message, "headers": headers.raw}
        elif kind in ("http.response.body", "websocket.http.response.body"):
            self.complete = not message.get("more_body", False)
        elif kind == "websocket.close" and not self.complete:
            self.status, self.complete = message.get("code", 1000), True
        await self._send(message)

    def outcome(self) -> str:
        """done | refused (the client must change something, or come back) | cancelled | failed"""
        if self.error is not None:
            return "failed"
        if self.left or not self.complete or self.status == 499:
            # A socket is also left cleanly, with everything said.
            return "done" if self.websocket and self.status in (1000, 1001) else "cancelled"
        status = self.status or 0
        if self.websocket and status >= 1000:
            if status in (1000, 1001):
                return "done"
            # A server that stops asks to come back (1013) too, but what it had begun has failed.
            return "failed" if status == 1011 or self._known.audio_s else "refused"
        return "failed" if status >= 500 else "refused" if status >= 400 else "done"
