"""Whether a request comes from a web page that may make it.

A browser lets any page ask for audio by GET, without the preflight that keeps it from a POST. Whoever visits a hostile
page would make a server without API keys work, even one that only their own network can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def listed(origins: str | None) -> list[str]:
    """The entries of ORPHEUS_CORS_ORIGINS."""
    return [origin.strip() for origin in (origins or "").split(",") if origin.strip()]


def from_foreign_page(headers: Mapping[str, str], allowed: list[str]) -> bool:
    """Whether a page of another origin than the server's and the `allowed` ones asks.

    `Sec-Fetch-Site` says so beyond doubt, but browsers send it only over HTTPS and to localhost. Elsewhere the page's
    address decides, where the page lets it be sent.
    """
    site = headers.get("sec-fetch-site")
    address = headers.get("origin") or headers.get("referer")
    if site in ("same-origin", "none") or (site is None and address is None):
        return False
    try:
        page = urlsplit(address or "")
    except ValueError:
        return True
    if site is None and page.netloc == headers.get("host"):
        return False
    return "*" not in allowed and f"{page.scheme}://{page.netloc}" not in allowed
