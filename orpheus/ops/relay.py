"""`orpheus relay`: from a plain `ws://127.0.0.1:8089` to a tier 2 at `https://…`, with the headers its proxy requires.

An unmodified unmute connects to a host and a port, without TLS and without headers of ours. Where tier 2 is behind Modal
or another HTTPS proxy, this runs beside unmute. HTTP and WebSockets pass unchanged both ways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx
import msgpack
import websockets
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from orpheus.errors import BadRequest, Forbidden, NotReady, OrpheusError, SetupError, UpstreamError
from orpheus.http.body_limit import BodyLimit
from orpheus.http.responses import GeneratorResponse, error_response, while_connected
from orpheus.redaction import address

log = logging.getLogger(__name__)

CONNECT_S = 5.0  # longest wait for a connection to tier 2
UNMUTE_PATH = "/api/tts_streaming"
BUILD_INFO, BUILD_INFO_S = "/api/build_info", 1.5  # unmute waits 2 s, then considers us dead
MAX_MESSAGE_BYTES = 1 << 20  # unmute's own limit
CLOSE_S = 1.0  # longest wait for the answer to a close
COMPLETE, GONE, TOO_BIG, FAILED, TRY_AGAIN, BROKEN = 1000, 1001, 1009, 1011, 1013, 1014
_UNSENDABLE = {1005: COMPLETE, 1006: GONE}  # closed without a code; disconnected without a close
_EOS = (msgpack.packb({"type": "Eos"}), b"\0")
# Headers of one connection (RFC 9110, 7.6.1), and those that each connection sets itself.
_HOP = {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_HOP |= {"proxy-authenticate", "proxy-authorization"}


def read_headers(lines: Sequence[str]) -> dict[str, str]:
    """Parse lines of the form `Name: value`. Raises SetupError, which shows no value: they are secrets."""
    headers = {}
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if not (name.replace("-", "").isalnum() and value and line.isascii() and value.isprintable()):
            raise SetupError(
                "A header to add must be written 'Name: value'; give --header again for another."
            )
        headers[name.lower()] = value
    return headers


def create_app(url: str, headers: Mapping[str, str], *, connect_s: float = CONNECT_S) -> Starlette:
    """Relay everything to `url`, with `headers` in place of those with the same names.

    `connect_s` is the longest wait for a connection, in seconds. Raises SetupError if `url` cannot be relayed to.
    """
    at = urlsplit(url)
    if at.scheme not in ("http", "https") or not at.hostname or at.query or at.fragment:
        raise SetupError(f"{address(url)!r} cannot be relayed to: name a tier 2 as https://HOST.")
    relay = _Relay(url.rstrip("/"), headers, connect_s)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with relay.client:
            yield

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(
        routes=[
            Route("/{path:path}", relay.http, methods=methods),
            WebSocketRoute("/{path:path}", relay.socket),
        ],
        middleware=[Middleware(BodyLimit)],
        lifespan=lifespan,
    )


class _Relay:
    def __init__(self, url: str, headers: Mapping[str, str], connect_s: float) -> None:
        self._url, self._connect_s = url, connect_s
        self._headers = {name.lower(): value for name, value in headers.items()}
        self.client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None))

    async def http(self, request: Request) -> Response:
        """The response as it arrives; 502 or 503 with our error body if none comes."""
        try:
            body = await request.body()
            asked = httpx.Request(
                request.method,
                self._target(request),
                headers=self._passed(request),
                content=body or None,
                extensions={"timeout": {"connect": self._connect_s}},
            )
            limit_s = BUILD_INFO_S if request.scope["path"] == BUILD_INFO else None
            async with asyncio.timeout(limit_s):
                answer = await while_connected(request.receive, self.client.send(asked, stream=True))
        except OrpheusError as error:
            return error_response(error)
        except (TimeoutError, httpx.TransportError) as error:
            return error_response(self._unreachable(error))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        response = GeneratorResponse(_body(answer), answer.status_code)
        response.raw_headers = [
            (name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in _HOP
        ]
        return response

    async def socket(self, client: WebSocket) -> None:
        """Relay both ways until one side closes. Where no server can be reached, the client learns it in its protocol."""
        with suppress(WebSocketDisconnect, ClientDisconnect):
            try:
                server = await while_connected(client.receive, self._connect(client))
            except OrpheusError as error:
                await _refuse(client, error_response(error), str(error))
            except websockets.InvalidStatus as refused:  # passed on as it is
                answer = refused.response
                kind = answer.headers.get("Content-Type", "text/plain")
                response = Response(bytes(answer.body or b""), answer.status_code, media_type=kind)
                await _refuse(client, response, f"{answer.status_code} {answer.reason_phrase}")
            else:
                async with server:  # closed even if the client has just left
                    await client.accept(server.subprotocol)
                    await _Bridge(client, server).run()

    async def _connect(self, client: WebSocket) -> ClientConnection:
        try:
            return await _Dial(
                "ws" + self._target(client).removeprefix("http"),
                additional_headers=self._passed(client),
                subprotocols=[Subprotocol(name) for name in client.scope["subprotocols"]] or None,
                user_agent_header=None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=self._connect_s,
                close_timeout=CLOSE_S,
            )
        except websockets.InvalidStatus:
            raise
        except (OSError, websockets.WebSocketException) as error:
            raise self._unreachable(error) from error

    def _target(self, asked: HTTPConnection) -> str:
        if "origin" in asked.headers:  # any web page open on this machine could use our keys
            raise Forbidden(
                "The relay adds your keys to each request, so it serves programs, not web pages: open tier 2 itself."
            )
        path: str = asked.scope["raw_path"].decode("latin-1")
        if not path.startswith("/"):  # appended to our URL, "@other.example" would be another host
            raise BadRequest("A path must begin with '/'.")
        query: str = asked.scope["query_string"].decode("latin-1")
        return self._url + path + ("?" + query if query else "")

    def _passed(self, asked: HTTPConnection) -> list[tuple[str, str]]:
        dropped = (
            _HOP | {name for name in asked.headers if name.startswith("sec-websocket-")} | {*self._headers}
        )
        kept = [(name, value) for name, value in asked.headers.items() if name not in dropped]
        return [*kept, *self._headers.items()]

    def _unreachable(self, error: Exception) -> OrpheusError:
        if isinstance(error, OSError | httpx.ConnectError | httpx.TimeoutException):
            return NotReady(
                f"{address(self._url)} cannot be reached ({error or 'no answer in time'}): check that it runs, and its URL."
            )
        return UpstreamError(
            f"{address(self._url)} did not answer as a server should ({error!r}): check its URL."
        )


class _Dial(connect):
    """Follows a redirect within the same server only: to another one it would take our keys along."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        other = super().process_redirect(exc)
        elsewhere = isinstance(other, str) and urlsplit(other)[:2] != urlsplit(self.uri)[:2]
        return exc if elsewhere else other


async def _body(answer: httpx.Response) -> AsyncGenerator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _refuse(client: WebSocket, response: Response, why: str) -> None:
    log.warning("refused: %s", why)
    if client.scope["path"].endswith(UNMUTE_PATH):  # a refused handshake would end the conversation
        await client.accept()
        await client.send_bytes(msgpack.packb({"type": "Error", "message": why}))
        await client.close(TRY_AGAIN)
    else:
        await client.send_denial_response(response)


class _Bridge:
    """A WebSocket on each side. Each direction waits for the side it writes to, so nothing is buffered here."""

    def __init__(self, client: WebSocket, server: ClientConnection) -> None:
        self._client, self._server = client, server
        self._client_gone = False
        self._eos = asyncio.Event()  # unmute has sent its last word

    async def run(self) -> None:
        await asyncio.gather(self._up(), self._down())

    async def _up(self) -> None:
        """To the server, until the client closes. The server's close arrives here as one of ours."""
        while (message := await self._client.receive())["type"] != "websocket.disconnect":
            data: str | bytes = message["text"] if message.get("bytes") is None else message["bytes"]
            if len(data) > MAX_MESSAGE_BYTES:
                await self._server.close(TOO_BIG, f"A message may have {MAX_MESSAGE_BYTES} bytes.")
            if data in _EOS:
                self._eos.set()
            with suppress(websockets.ConnectionClosed):  # _down reports it
                await self._server.send(data)
        self._client_gone = True
        self._eos.set()
        code: int = message.get("code") or GONE
        await self._server.close(_UNSENDABLE.get(code, code), message.get("reason") or "")

    async def _down(self) -> None:
        """To the client, until the server closes."""
        try:
            while True:
                data = await self._server.recv()
                if not self._client_gone:
                    await self._send(data)
        except websockets.ConnectionClosed as error:
            await self._close(error)

    async def _send(self, data: str | bytes) -> None:
        try:
            if isinstance(data, str):
                await self._client.send_text(data)
            else:
                await self._client.send_bytes(data)
        except WebSocketDisconnect:
            self._client_gone = True

    async def _close(self, error: websockets.ConnectionClosed) -> None:
        close = error.rcvd or error.sent
        # A close with FAILED that we sent means that the server did not answer our pings.
        if close is not None and (error.rcvd or close.code != FAILED):
            code, reason = _UNSENDABLE.get(close.code, close.code), close.reason
        else:
            code, reason = BROKEN, "The connection to the server broke."
            log.error("%s", reason)
            if self._client.scope["path"].endswith(UNMUTE_PATH):
                # A close before unmute's Eos ends the conversation; a code other than 1000 drops what it still has to
                # play.
                await self._send(msgpack.packb({"type": "Error", "message": reason}))
                code, reason = COMPLETE, ""
                await self._eos.wait()
        if not self._client_gone:
            with suppress(WebSocketDisconnect):
                await self._client.close(code, reason)
