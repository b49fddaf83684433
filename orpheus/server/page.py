"""The web page at `/`: serves the files of `orpheus/web`. ORPHEUS_PAGE=false turns it off.

The files need no API key, contain no secret, and may load nothing from another origin.
"""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from fastapi.responses import Response

from orpheus.errors import NotFound

FILES = "/page/"  # their path; exempt from API keys
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
# What the page may do. 'self' in connect-src covers WebSockets too, except in Safari before 15.4.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data:",  # the icon
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # so that a new release is shown at once
}


def routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = {
        file.name: Response(file.read_bytes(), media_type=media_type, headers=_HEADERS)
        for file in resources.files("orpheus.web").iterdir()
        if (media_type := _TYPES.get(file.name.rpartition(".")[2]))
    }

    @router.get("/")
    async def page() -> Response:
        """The page itself."""
        return files["index.html"]

    @router.get(FILES + "{name}")
    async def file(name: str) -> Response:
        """A script or style sheet of the page."""
        if name not in files:
            raise NotFound("The page has no file of this name.")
        return files[name]

    return router
