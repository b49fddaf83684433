"""The agent and what unmute's page is made of, in a browser: its recorder, its decoder, a microphone, a WebSocket."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orpheus.tts.encode import wav_header
from tests.agent.conftest import Host
from tests.support.agent import silence
from tests.support.browser import chromium, with_microphone
from tests.support.environments import node_with
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

PAGE = Path(__file__).parent / "others" / "unmute.html"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """Where the page is served, not by the agent."""
    shutil.copytree(
        node_with("opus-recorder@8.0.5") / "node_modules" / "opus-recorder" / "dist", tmp_path / "page"
    )
    shutil.copy(PAGE, tmp_path / "page" / "index.html")
    handler = partial(Quiet, directory=str(tmp_path / "page"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_browser_with_unmutes_recorder_and_decoder_holds_a_conversation(
    start_host: Callable[..., Host], upstream: Upstream, origin: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        host = start_host(stack, cors_origins=origin)
        host.script.thinker.answers = [["Good day to you."], ["It is sunny in Rome."]]
        sound = silence(5_000) + host.script.speech.say("How is the weather?") + silence(60_000)
        microphone = tmp_path / "microphone.wav"
        microphone.write_bytes(wav_header(24_000, len(sound)) + sound)
        options = "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required"
        browser = stack.enter_context(chromium(*options, *with_microphone(microphone)))
        context = browser.new_context()
        context.grant_permissions(["microphone"])
        page = context.new_page()
        page.goto(origin)
        page.evaluate("(backend) => begin(backend)", host.url)

        def report() -> dict[str, Any]:
            found: dict[str, Any] = page.evaluate("report")
            return found

        eventually(lambda: report()["types"].count("response.audio.done") == 2, within_s=40)
        page.wait_for_timeout(300)
        told = report()
    assert told["health"]["ok"] is True
    assert told["chat"] == " Good day to you.[How is the weather?] It is sunny in Rome."
    assert told["errors"] == told["unknown"] == []
    assert told["closed"] == ""
    assert told["pages"] > 50
    assert told["played"] > 0.8
    assert told["peak"] > 0.01
    assert host.script.thinker.last[-1] == ("user", "How is the weather?")
