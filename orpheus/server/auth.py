"""API keys: requests without one of ORPHEUS_API_KEYS get a 401, keys with too many requests at once a 429.

A key is read from `Authorization: Bearer`, `x-api-key` or `kyutai-api-key`, and for WebSockets, which browsers open
without headers, also from `?api_key=` or moshi's `?auth_id=`. One valid key among them is enough, so a proxy's token
(Modal's `wk-….ws-…`) may occupy Authorization while ours comes in `x-api-key`. Pure ASGI.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orpheus.errors import AtCapacity, OrpheusError, Unauthorized
from orpheus.http.responses import error_response
from orpheus.server import page
from orpheus.settings import Settings, keys_in

# For load balancers, scrapers and people with a browser. None of it costs work.
_OPEN = frozenset(
    (
        "/",
        "/health",
        "/ready",
        "/live",
        "/metrics",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
        "/api/build_info",
        "/api/modules_info",
    )
)
_CATALOG = frozenset(("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/v1/test", "/v1/"))


class ApiKeyAuth:
    """Passes a request on, or answers 401 or 429 itself; a WebSocket is rejected before it is accepted."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        # Digests have equal lengths, so a comparison takes the same time whatever is wrong with a key.
        self._keys = [_digest(key) for key in keys_in(settings.api_keys)]
        self._unmute_open = settings.unmute_open
        self._limit = settings.max_requests_per_key
        self._active: Counter[int] = Counter()  # requests in progress by index of the key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._keys or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        key = self._key_of(scope)
        if key is None:
            problem = "This API key is not valid." if any(_given_keys(scope)) else "An API key is required."
            error: OrpheusError = Unauthorized(
                f"{problem} Send one of ORPHEUS_API_KEYS as 'Authorization: Bearer', 'x-api-key', or, for a "
                "WebSocket, '?api_key='."
            )
            await error_response(error)(scope, receive, send)
        elif self._limit is not None and _is_work(scope) and self._active[key] >= self._limit:
            error = AtCapacity(
                f"This API key is at its limit of {self._limit} requests; try again in a moment."
            )
            await error_response(error)(scope, receive, send)
        else:
            self._active[key] += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._active[key] -= 1

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            return self._unmute_open and path == "/api/tts_streaming"
        if path in _OPEN or path.startswith(page.FILES):
            return True
        reads: bool = scope["method"] in ("GET", "HEAD")
        return reads and (path in _CATALOG or path.startswith("/v1/models/"))

    def _key_of(self, scope: Scope) -> int | None:
        """The index of the valid key. Every pair is compared, in constant time, whether or not one matches."""
        found = None
        for given in _given_keys(scope):
            digest = _digest(given)
            for index, key in enumerate(self._keys):
                if hmac.compare_digest(digest, key):
                    found = index
        return found


def _given_keys(scope: Scope) -> Iterator[str]:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip()
    for name in ("x-api-key", "kyutai-api-key"):
        if value := headers.get(name):
            yield value
    if scope["type"] == "websocket":
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        yield from query.get("api_key", ())
        yield from query.get("auth_id", ())


def _is_work(scope: Scope) -> bool:
    """Whether a request holds resources for a while and counts towards the limit of its key."""
    return bool(scope["type"] == "websocket" or scope["method"] == "POST")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
