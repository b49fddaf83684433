"""What pages of other sites may not do, on both tiers: a browser sends what they ask for, and only we can refuse."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from orpheus.http.origins import OriginCheck

pytestmark = pytest.mark.anyio
HERE = "tts.example:5005"


async def asked(
    allowed: tuple[str, ...] = (),
    *,
    method: str = "POST",
    path: str = "/v1/completions",
    keyed: bool = False,
    server: tuple[str, int] = ("192.0.2.1", 5005),
    **headers: str,
) -> int:
    async def speak(request: Request) -> Response:
        return PlainTextResponse("spoken")

    app = OriginCheck(
        Starlette(routes=[Route("/{path:path}", speak, methods=["GET", "POST"])]), allowed, keyed=keyed
    )

    async def at_server(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "server": server}, receive, send)

    sent = {"host": HERE} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(at_server), base_url="http://x") as client:
        return (await client.request(method, path, headers=sent)).status_code


async def test_programs_send_no_origin_and_pass() -> None:
    assert await asked() == 200
    assert await asked(method="GET", path="/v1/audio/speech") == 200


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://tts.example:5005", HERE),
        ("HTTP://TTS.Example:5005", HERE),
        ("http://tts.example:5005", "TTS.example:5005"),
        ("https://tts.example", "tts.example"),  # a proxy ends TLS before us
        ("https://tts.example", "tts.example:443"),
        ("https://tts.example:443", "tts.example"),
        ("http://tts.example:80", "tts.example"),
        ("http://[::1]:5005", "[::1]:5005"),
        ("http://[::1]", "[::1]:80"),
        ("http://127.0.0.1:5005", "127.0.0.1:5005"),
    ],
)
async def test_the_servers_own_pages_pass(origin: str, host: str) -> None:
    assert await asked(origin=origin, host=host) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://tts.example",  # another port is another origin
        "http://tts.example:5006",
        "https://tts.example:80",
        "http://sub.tts.example:5005",
        "http://tts.example.evil.example:5005",
        "http://eviltts.example:5005",
        "http://tts.example:5005@evil.example",
        "http://tts.example:5005.evil.example",
        "http://tts.example:5005/",
        "http://tts.example:5005 http://evil.example",
        "null",
        "NULL",
        "file://",
        "",
        "*",
        "://",
        "tts.example:5005",
        "app://tts.example:5005",
        "chrome-extension://abcdefghijklmnop",
        "http://[::1",
        "http://tts.example:port",
    ],
)
@pytest.mark.parametrize("keyed", [False, True])
async def test_the_pages_of_others_are_refused(origin: str, keyed: bool) -> None:
    expected = 200 if origin == "http://tts.example:5005/" else 403
    assert await asked(origin=origin, keyed=keyed) == expected
    assert await asked(origin=origin, keyed=keyed, method="GET", path="/v1/audio/speech") == expected


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("https://a.example", "https://a.example", 200),
        ("https://A.example/", "https://a.example", 200),
        ("https://a.example:443", "https://a.example", 200),
        ("https://a.example", "http://a.example", 403),
        ("https://a.example", "https://a.example:8443", 403),
        ("https://a.example", "https://b.a.example", 403),
        ("https://a.example", "null", 403),
        ("null", "null", 200),
        ("file://", "file://", 200),
        ("chrome-extension://abc", "chrome-extension://abc", 200),
        ("*", "https://a.example", 200),
        ("*", "null", 200),
    ],
)
async def test_the_origins_of_the_setting_pass(allowed: str, origin: str, status: int) -> None:
    assert await asked((allowed,), origin=origin) == status


async def test_reading_lists_and_probes_stays_open_as_cors_protects_the_answers() -> None:
    for path in ("/v1/models", "/health", "/"):
        assert await asked(method="GET", path=path, origin="https://evil.example") == 200


async def test_what_a_page_embeds_comes_without_an_origin_but_says_where_from() -> None:
    embedded = {"method": "GET", "path": "/v1/audio/speech", "sec_fetch_site": "cross-site"}
    assert await asked(**embedded) == 403  # type: ignore[arg-type]
    assert await asked(**embedded, referer="https://evil.example/page") == 403  # type: ignore[arg-type]
    assert await asked(("https://a.example",), **embedded, referer="https://a.example/page") == 200  # type: ignore[arg-type]
    assert await asked(keyed=True, **embedded) == 200  # type: ignore[arg-type]  # its URL has a key, or gets a 401
    for site in ("same-origin", "none"):
        assert await asked(method="GET", path="/v1/audio/speech", sec_fetch_site=site) == 200


async def test_the_browsers_word_counts_behind_a_proxy_that_changes_the_host() -> None:
    behind = {"origin": "https://tts.example", "host": "127.0.0.1:5005"}
    assert await asked(**behind) == 403  # type: ignore[arg-type]
    assert await asked(**behind, sec_fetch_site="same-origin") == 200  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "server", "status"),
    [
        ("evil.example:5005", ("127.0.0.1", 5005), 403),
        ("evil.example:5005", ("::1", 5005), 403),
        ("evil.example:5005", ("::ffff:127.0.0.1", 5005), 403),
        ("localhost:5005", ("127.0.0.1", 5005), 200),
        ("tts.localhost:5005", ("127.0.0.1", 5005), 200),
        ("127.0.0.1:5005", ("127.0.0.1", 5005), 200),
        ("[::1]:5005", ("::1", 5005), 200),
        ("tts.example", ("127.0.0.1", 5005), 200),  # through a proxy on this machine, whose port is another
        ("box.lan:5005", ("192.0.2.1", 5005), 200),
    ],
)
async def test_a_name_that_was_made_to_point_here_is_not_our_own(
    name: str, server: tuple[str, int], status: int
) -> None:
    """DNS rebinding: the page's origin and the Host header agree, and both are the attacker's."""
    assert await asked(origin=f"http://{name}", host=name, server=server) == status
    assert await asked((f"http://{name}",), origin=f"http://{name}", host=name, server=server) == 200
