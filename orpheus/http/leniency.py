"""Takes requests as monitors and clients really send them: HEAD for GET, and paths put together carelessly.

Both tiers have this as their outermost layer, so that everything inside it, API keys first, judges the path that is
served. Pure ASGI.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLASHES = re.compile(r"/{2,}")
_LAST_SLASH = re.compile(r"(?<=.)(?<!^/v1)/$")  # LiveKit asks for `/v1/`
# Clients are often given `http://host:5005` instead of `http://host:5005/v1`, or append a `/v1` themselves.
_DOUBLED = re.compile(r"^(/v1)+(?=/v1(/|$))")
# Asked every few seconds by whoever watches a tier: left out of logs and traces.
PROBES = ("/health", "/v1/health", "/ready", "/live", "/metrics")
_BARE = re.compile(r"^(?=/(audio/|models(/|$)|completions$))")


class Leniency:
    """`//v1/v1/audio//speech/` is `/v1/audio/speech`, `/models` is `/v1/models`; HEAD is a GET without a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = served_path(scope["path"])
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET", "orpheus.head": True}, receive, send_head)


def served_path(path: str) -> str:
    """The path of the route that is meant."""
    path = _DOUBLED.sub("", _SLASHES.sub("/", path))
    return _BARE.sub("/v1", _LAST_SLASH.sub("", path))


def is_probe(scope: Scope) -> bool:
    """Whether a request only asks how the server is."""
    return scope["type"] == "http" and served_path(scope["path"]) in PROBES


def is_head(scope: Scope) -> bool:
    """Whether the client sees only the headers: a route that works for its body need not."""
    return bool(scope.get("orpheus.head"))
