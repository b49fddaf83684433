"""uvicorn's protocols for HTTP and WebSockets, with the answers and bounds that they lack."""

from __future__ import annotations

import http
import logging
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from orpheus.errors import AtCapacity, BadRequest, OrpheusError, RequestError

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024  # request line and headers: browsers send all their cookies for a host
MAX_TARGET_BYTES = 8000  # of a WebSocket's address; a longer one is refused by its parser
MAX_UNREAD_PONG_BYTES = 64 * 1024

_HANDSHAKE = (b"host", b"connection", b"upgrade", b"origin")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class TooLong(RequestError):
    """Headers, or an address, that are longer than a server can be asked to read."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, code="request_header_too_large")
        self.status = status


class HttpProtocol(H11Protocol):
    """Answers a request that is not read to its end, and then closes; knows how far a request has come."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._serve: ASGIApp = self.app
        self._refused = False
        self.app = self._close_if_unread

    @property
    def awaits(self) -> object | None:
        if self.conn.their_state is h11.IDLE:
            return ("head", self.cycle)
        return ("body", self.cycle) if self.awaits_body else None

    @property
    def awaits_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    @property
    def silent(self) -> bool:
        cycle = self.cycle
        return self.awaits is not None and (
            cycle is None or cycle.response_complete or not cycle.response_started
        )

    @property
    def answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self.awaits_body

    @property
    def sends(self) -> bool:
        return self.answers and self.cycle.response_started

    @property
    def receives(self) -> bool:
        return self._refused or self.awaits_body

    def probe(self) -> None:
        if self.scope["http_version"] == "1.1":
            self.transport.write(_CONTINUE)

    def refuse(self, error: OrpheusError) -> None:
        self._refused = True
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_answer(error))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if len(self.conn.trailing_data[0]) > MAX_HEAD_BYTES:
            self.refuse(
                TooLong(431, f"The headers are longer than {MAX_HEAD_BYTES // 1024} KiB; send fewer.")
            )
        else:
            self.refuse(BadRequest("This is not a request in HTTP/1.1; check the client, and https or http."))

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Show the WebSocket's parser only what concerns it: its limits are lower than ours, and it says nothing."""
        headers = self.headers
        given = dict(headers)
        if len(event.target) > MAX_TARGET_BYTES:
            self.refuse(TooLong(414, f"The address is longer than {MAX_TARGET_BYTES} bytes; shorten it."))
            return
        if b"transfer-encoding" in given or given.get(b"content-length", b"0") != b"0":
            self.refuse(BadRequest("A WebSocket's handshake has no body; send the text in messages."))
            return
        self.headers = [
            header for header in headers if header[0] in _HANDSHAKE or header[0].startswith(b"sec-websocket-")
        ]
        super().handle_websocket_upgrade(event)
        socket = self.transport.get_protocol()
        assert isinstance(socket, WebSocketsSansIOProtocol)
        if hasattr(socket, "scope"):  # the handshake is correct
            socket.scope["headers"] = headers
        if early := self.conn.trailing_data[0]:  # of a client that did not wait for the answer
            socket.data_received(early)

    async def _close_if_unread(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. If it is answered before all of it has come, the rest is not waited for."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.awaits_body:
                headers = [*message.get("headers", ()), CLOSE_HEADER]
                message = {**message, "headers": headers}
            await send(message)

        await self._serve(scope, receive, closing)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Bounds what a client makes us keep: pongs that it does not read, messages in a million fragments."""

    awaits = None
    awaits_body = False
    answers = sends = False  # a WebSocket ends with a close frame; one that just ends has failed
    _behind = False  # whether the last ping was queued behind unread data
    _heard = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._joined = bytearray()  # fragments of the message that is coming

    @property
    def silent(self) -> bool:
        return not self._heard

    @property
    def receives(self) -> bool:
        return self.conn.close_rcvd is None

    def probe(self) -> None:
        raise AssertionError("it does not outlive its client's last byte")

    def refuse(self, error: OrpheusError) -> None:
        self.shutdown()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(answer or _answer(BadRequest("This WebSocket handshake is not valid.")))
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if (scope := getattr(self, "scope", None)) is not None:  # the handshake was accepted
            scope["extensions"]["orpheus.unread"] = {"bytes": self.transport.get_write_buffer_size}

    def handle_ping(self) -> None:
        """Answer, unless the client reads none of the answers: only the last of them counts."""
        if self.transport.get_write_buffer_size() > MAX_UNREAD_PONG_BYTES:
            self.conn.data_to_send()
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        """Join fragments as they come: kept apart, each byte could take fifty."""
        if not self._joined:
            self._joined += self.frames[0]
        self._joined += event.data
        if event.fin:
            self.frames = [bytes(self._joined)]
            self._joined.clear()
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        self._heard = True
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                self.frames[0].decode()
            except UnicodeDecodeError as error:
                log.debug("a WebSocket message is not UTF-8: %s", error)
                self.conn.fail(1007, "A text message must be UTF-8.")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        """Give a client that is behind more time: a ping is queued after unread data, so its answer comes late."""
        behind, self._behind = self._behind, self.transport.get_write_buffer_size() > 0
        if (behind or self._behind) and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
        else:
            super().keepalive_timeout()


def _answer(error: OrpheusError) -> bytes:
    """An error as the bytes of a response, for a request that the application never sees.

    It is not logged, so that a flood of them does not fill the disk.
    """
    headers = {"Connection": "close"}
    if isinstance(error, AtCapacity):
        headers["Retry-After"] = str(error.retry_after_s)
    response = JSONResponse(error.body(), error.status, headers)
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
