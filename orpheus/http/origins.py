"""Refuses what web pages of other sites ask for, on both tiers, with or without keys.

A browser lets any page send simple requests and open WebSockets to any server its user can reach, one on the user's own
machine too: CORS only keeps the page from reading the answers to requests. So what costs work, or speaks, is served to
pages of this server and of ORPHEUS_CORS_ORIGINS alone. Programs send no Origin, and pass. Pure ASGI.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orpheus.errors import Forbidden
from orpheus.http.responses import error_response
from orpheus.settings import Settings

ANY = "*"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def allowed_origins(settings: Settings) -> list[str]:
    """The origins in ORPHEUS_CORS_ORIGINS."""
    listed = (settings.cors_origins or "").split(",")
    return [origin.strip() for origin in listed if origin.strip()]


class OriginCheck:
    """Passes a request on, or answers 403 itself; a WebSocket is rejected before it is accepted."""

    def __init__(self, app: ASGIApp, allowed: Collection[str] = (), *, keyed: bool = False) -> None:
        """`keyed`: without an Origin, the key that is asked for next is door enough."""
        self._app = app
        self._any = ANY in allowed
        self._allowed = {_normal(origin) for origin in allowed}
        self._keyed = keyed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._any or not _is_work(scope) or self._passes(scope):
            await self._app(scope, receive, send)
            return
        error = Forbidden(
            "A web page of another site asked for this: to let it, add its origin to ORPHEUS_CORS_ORIGINS. If it is "
            "this server's own page, the proxy in front must pass the Host header on.",
            code="origin_not_allowed",
        )
        await error_response(error)(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        origins = headers.getlist("origin")
        # Pages cannot set it; browsers send it over HTTPS and to localhost alone, and elsewhere only where they come from.
        site = headers.get("sec-fetch-site", "" if "referer" in headers else "none").lower()
        if not (origins or self._keyed or site in ("none", "same-origin")):  # the <audio> or <img> of a page
            origins = ["/".join(headers.get("referer", "").split("/")[:3])]
        return all(
            _normal(origin) in self._allowed
            or (_is_own(origin, headers, site) and not _is_rebound(origin, scope))
            for origin in origins
        )


def _is_work(scope: Scope) -> bool:
    """Not the reading of lists, pages and probes, whose answers CORS protects."""
    if scope["type"] == "websocket":
        return True
    if scope["type"] != "http" or scope["method"] == "OPTIONS":
        return False
    return scope["method"] not in ("GET", "HEAD") or "/audio/speech" in scope["path"]


def _is_own(origin: str, headers: Headers, site: str) -> bool:
    """Whether the page came from this server: by the name it was asked for, or by the browser's word."""
    scheme, _, authority = _normal(origin).partition("://")
    host = headers.get("host", "").lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))
    return scheme in _DEFAULT_PORTS and (authority == host or site == "same-origin")


def _is_rebound(origin: str, scope: Scope) -> bool:
    """Whether a page of another site has made its own name point to this machine (DNS rebinding).

    Such a page is reached without a proxy, so its origin has our scheme and our port, but a name that is not ours.
    """
    local_host, local_port = scope.get("server") or ("", None)
    local = _address(local_host)
    try:
        at = urlsplit(origin)
        name, port = at.hostname or "", at.port or 80
    except ValueError:
        return True  # no browser writes that
    if local is None or not local.is_loopback or at.scheme != "http" or port != local_port:
        return False
    ours = name in ("localhost", socket.gethostname().lower()) or name.endswith(".localhost")
    return not ours and _address(name) is None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _normal(origin: str) -> str:
    """As browsers write it: in lower case, without the default port and without a slash at the end."""
    origin = origin.strip().lower().removesuffix("/")
    scheme = origin.partition("://")[0]
    return origin.removesuffix(_DEFAULT_PORTS.get(scheme, ""))
