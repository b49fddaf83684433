"""Rewrites the paths of common base URLs: `/audio/…`, `/models` and `/v1/v1/…` all become `/v1/…`.

Clients are often given `http://host:5005` instead of `http://host:5005/v1`, or append a `/v1` themselves. Pure ASGI.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_DOUBLED = re.compile(r"^/v1(?=/v1/)")
_BARE = re.compile(r"^(?=/(audio/|models(/|$)))")


class Aliases:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path = _BARE.sub("/v1", _DOUBLED.sub("", scope["path"]))
            if path != scope["path"]:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
