from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orpheus.ops.say import say
from orpheus.settings import load_settings
from tests.support.live import served


@pytest.mark.anyio
async def test_a_server_is_sent_the_proxy_token_and_the_first_key(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def speech(request: Request) -> Response:
        seen.append(dict(request.headers))
        return Response(b"\0\0" * 2400, headers={"x-sample-rate": "24000"})

    settings = load_settings(proxy_key="wk-1", proxy_secret="ws-1", api_keys="one, two")
    out = tmp_path / "out.pcm"
    with served(Starlette(routes=[Route("/v1/audio/speech", speech, methods=["POST"])])) as url:
        spoken = await say(
            "Hello.",
            voice="tara",
            out=out,
            speed=1,
            url=url,
            settings=settings,
            console=Console(file=io.StringIO()),
        )
    assert spoken.audio_s == pytest.approx(0.1)
    assert (seen[0]["modal-key"], seen[0]["modal-secret"]) == ("wk-1", "ws-1")
    assert seen[0]["x-api-key"] == "one"
