"""Errors → HTTP answers in OpenAI's shape, the same in both tiers. The one place that maps them."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from orpheus import tracing
from orpheus.errors import AtCapacity, BadRequest, NotReady, OrpheusError, RequestError
from orpheus.logs import request_id
from orpheus.tasks import first_of

log = logging.getLogger(__name__)

_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
MAX_RETRY_AFTER_S = 600.0

UNFORESEEN = "The server failed on this request; its log has the reason."  # which may be private

T = TypeVar("T")


def install_error_handlers(app: FastAPI) -> None:
    """Every error of `app` leaves as `{"error": {message, type, param, code}}` with the right status."""

    @app.exception_handler(OrpheusError)
    async def known(request: Request, error: OrpheusError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(first_complaint(error))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's, for a body that is not text or is nested too deeply
            return error_response(BadRequest("The body is not valid JSON.", code="invalid_json"))
        shaped = RequestError(f"{error.detail}: {request.method} {request.url.path}", code="unknown_url")
        return JSONResponse(shaped.body(), error.status_code, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return error_response(OrpheusError(UNFORESEEN))


def sane_request_id(headers: Headers) -> str | None:
    """The X-Request-ID that a request came with, if it is safe in a header and in a log line; otherwise None."""
    given = headers.get("x-request-id", "")
    return given if _SANE.fullmatch(given) else None


class RequestIds:
    """ASGI layer: log lines written while a request is served carry its X-Request-ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = sane_request_id(Headers(scope=scope)) if scope["type"] == "http" else None
        token = request_id.set(known)
        tracing.note(request_id=known)
        try:
            await self._app(scope, receive, send)
        finally:
            request_id.reset(token)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`. If the client leaves first, the work is cancelled and ClientDisconnect raised.

    Anything else the client sends meanwhile is read and ignored.
    """
    return await first_of(work, _disconnect(receive))


async def _disconnect(receive: Receive) -> NoReturn:
    while not (await receive())["type"].endswith(".disconnect"):
        pass
    raise ClientDisconnect


class GeneratorResponse(StreamingResponse):
    """A streaming response that closes its generator at once when the client leaves.

    Starlette only drops it; if the client left during a send, what the generator holds (a stream in tier 1, a codec
    stream, its admission) would wait for the garbage collector.
    """

    body_iterator: AsyncGenerator[str | bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds until a server that answered 429 wants to be asked again; 1 if it does not say so in a way we know."""
    milliseconds, asked = headers.get("retry-after-ms", "").strip(), headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        wait_s = float(milliseconds) / 1000
    elif _NUMBER.fullmatch(asked):
        wait_s = float(asked)
    else:
        try:
            wait_s = parsedate_to_datetime(asked[:64]).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            wait_s = 1.0
    return min(MAX_RETRY_AFTER_S, max(0.0, wait_s))


def error_response(error: OrpheusError) -> JSONResponse:
    if error.status >= 500:
        log.error("%s", error)
    return unlogged_response(error)


def unlogged_response(error: OrpheusError) -> JSONResponse:
    """The same for an error that anyone can cause at any rate: a flood of them must not fill the disk."""
    headers = {}
    if isinstance(error, AtCapacity):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, round(error.retry_after_s * 1000)))  # OpenAI's SDK prefers it
    elif isinstance(error, NotReady):
        headers["Retry-After"] = "2"
    return JSONResponse(error.body(), error.status, headers=headers)


def first_complaint(error: RequestValidationError | ValidationError) -> BadRequest:
    """Pydantic's first validation error as OpenAI reports it: a 400 that names the field."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query")]
    if first["type"] == "json_invalid":
        return BadRequest("The body is not valid JSON.", code="invalid_json")
    if isinstance(first["input"], bytes):
        return BadRequest("The body was not read as JSON: send it with Content-Type: application/json.")
    if not path:
        return BadRequest(f"The body must be a JSON object: {first['msg']}.")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return BadRequest(f"{'.'.join(path)}: {first['msg']}.", param=path[0], code=code)
