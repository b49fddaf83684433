"""Who may ask, and how much at once: ORPHEUS_API_KEYS at the door of tier 2.

Knows nothing of speech. A key is taken from `Authorization: Bearer`, `x-api-key` or `kyutai-api-key`, and for
WebSockets, which browsers open without headers, from `?api_key=`, or moshi's `?auth_id=`; one that fits is enough. So a proxy's own
token (Modal's `wk-….ws-…`) may stand in Authorization while ours comes in `x-api-key`. Pure ASGI.
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

# Open to all: what a load balancer, a scraper or a person with a browser looks at. Nothing here costs work.
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
_LISTS = frozenset(("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/v1/test", "/v1/"))


class ApiKeyAuth:
    """Lets a request through, or answers 401 or 429 itself; a WebSocket is refused before it is accepted."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        # Digests: equal lengths, so that comparing takes the same time whatever is wrong with a key.
        self._keys = [_digest(key) for key in keys_in(settings.api_keys)]
        self._orchestrator_open = settings.unmute_open
        self._most = settings.max_requests_per_key
        self._held: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._keys or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        key = self._key_of(scope)
        if key is None:
            shown = (
                "That API key is not one of this server's."
                if any(_presented(scope))
                else "An API key is needed."
            )
            error: OrpheusError = Unauthorized(
                f"{shown} Send one of ORPHEUS_API_KEYS as 'Authorization: Bearer', 'x-api-key', or, for a "
                "WebSocket, '?api_key='."
            )
            await error_response(error)(scope, receive, send)
        elif self._most is not None and _speaks(scope) and self._held[key] >= self._most:
            error = AtCapacity(f"This key has {self._most} requests under way, which is the most; try again.")
            await error_response(error)(scope, receive, send)
        else:
            self._held[key] += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._held[key] -= 1

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            return self._orchestrator_open and path == "/api/tts_streaming"
        if path in _OPEN or path.startswith(page.FILES):
            return True
        looks: bool = scope["method"] in ("GET", "HEAD")
        return looks and (path in _LISTS or path.startswith("/v1/models/"))

    def _key_of(self, scope: Scope) -> int | None:
        """Which key was given. Every pair is compared, in constant time, whether one fits or not."""
        found = None
        for presented in _presented(scope):
            digest = _digest(presented)
            for index, key in enumerate(self._keys):
                if hmac.compare_digest(digest, key):
                    found = index
        return found


def _presented(scope: Scope) -> Iterator[str]:
    headers = Headers(scope=scope)
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        yield token.strip()
    for name in ("x-api-key", "kyutai-api-key"):
        if value := headers.get(name):
            yield value
    if scope["type"] == "websocket":
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        yield from query.get("api_key", ())
        yield from query.get("auth_id", ())


def _speaks(scope: Scope) -> bool:
    """Whether a request holds resources for a while: lists are not worth a place."""
    return bool(scope["type"] == "websocket" or scope["method"] == "POST")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
