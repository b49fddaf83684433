"""Clients of others, unmodified, each in an environment of its own: a voiced turn, a call of a function, an interruption.

What they do is in others/, a program each, which prints what its client was told.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route

from orpheus.agent.think import ToolCallDelta
from tests.agent.conftest import Host
from tests.support.agent import silence
from tests.support.browser import chromium
from tests.support.environments import node_with, python_with
from tests.support.upstream import Upstream, whole

OTHERS = Path(__file__).parent / "others"
BETA = ("openai-realtime-api@1.0.8", "ws@8.18.0")
RUN_S = 100  # the longest that a program may take
SAID = {
    "hello": "How are you?",
    "weather": "How is the weather?",
    "story": "Tell me a story.",
    "stop": "No wait, stop that.",
}
LONG = ["One two three four five six seven. ", "Eight nine ten eleven twelve thirteen. ", "The end of it."]

pytestmark = pytest.mark.slow


@pytest.fixture
def sounds(host: Host, upstream: Upstream, tmp_path: Path) -> Path:
    """A folder of 16-bit samples at 24 kHz, which the scripted agent hears as `SAID` and answers in turn."""
    upstream.events = whole(14)  # 1.2 s a segment
    host.script.thinker.answers = [
        ["Hello there, my friend."],
        # Not before a client has dealt with the end of the turn: pipecat would keep the result to itself.
        [1.0, ToolCallDelta(0, "call_1", "get_weather", '{"city": "Rome"}')],
        ["It is sunny in Rome."],
        LONG,
        ["All right."],
    ]
    for name, text in SAID.items():
        sound = host.script.speech.say(text) + silence(1400)  # the longest that a turn waits for its end
        (tmp_path / f"{name}.pcm").write_bytes(sound)
    return tmp_path


Converse = Callable[..., dict[str, Any]]


@pytest.fixture
def converse(host: Host, sounds: Path) -> Converse:
    def run(*command: str | Path, cwd: Path | None = None) -> dict[str, Any]:
        url = f"{host.url.replace('http', 'ws', 1)}/v1/realtime"
        arguments = [str(part) for part in command]
        done = subprocess.run(
            [*arguments, url, str(sounds)],
            capture_output=True,
            text=True,
            cwd=cwd or sounds,
            timeout=RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report

    return run


def check(report: dict[str, Any], host: Host) -> None:
    """What every client should have come to know."""
    assert report["errors"] == []
    assert report["called"] == ["Rome"]
    assert report["interrupted"] >= 1
    assert list(SAID.values()) == report["heard"][:4]
    assert report["said"][:2] == ["Hello there, my friend.", "It is sunny in Rome."]
    assert report["said"][3] == "All right."
    assert all(count > 24_000 for count in report["samples"][:2])  # each a segment of 1.2 s
    asked = host.script.thinker.last
    story = next(text for role, text in reversed(asked[:-1]) if role == "assistant")
    assert len(story) < len("".join(LONG))  # what was not heard was not said


def test_the_betas_client_converses_in_node_where_it_asks_by_header(converse: Converse, host: Host) -> None:
    report = converse("node", OTHERS / "with_beta.mjs", cwd=node_with(*BETA))
    check(report, host)
    assert report["cut"] == 200 * 24  # samples that it kept of what it truncated


PAGE = """<!doctype html><script type="importmap">
{"imports": {"library": "/openai-realtime-api/dist/index.js", "nanoid": "/nanoid/index.browser.js"}}
</script>"""
CONVERSE = """async ([url, encoded]) => {
  const sounds = {};
  for (const [name, sound] of Object.entries(encoded))
    sounds[name] = new Int16Array(Uint8Array.from(atob(sound), (one) => one.charCodeAt(0)).buffer);
  return (await import("/with_beta.mjs")).converse(await import("library"), url, sounds);
}"""


def test_the_betas_client_converses_in_a_browser_where_it_asks_by_subprotocol(
    host: Host, sounds: Path
) -> None:
    modules = node_with(*BETA) / "node_modules"

    def serve(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path == "/":
            route.fulfill(body=PAGE, content_type="text/html")
            return
        file = OTHERS / path[1:] if path == "/with_beta.mjs" else modules / path[1:]
        route.fulfill(body=file.read_text(), content_type="text/javascript")

    encoded = {name: base64.b64encode((sounds / f"{name}.pcm").read_bytes()).decode() for name in SAID}
    url = f"{host.url.replace('http', 'ws', 1)}/v1/realtime"
    with chromium() as browser:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route(f"{host.url}/**", serve)  # a page of this server: others may not connect
        page.goto(host.url)
        report = page.evaluate(CONVERSE, [url, encoded])
    assert errors == []
    check(report, host)
    assert report["cut"] == 200 * 24


def test_openai_agents_which_takes_every_event_strictly_converses(converse: Converse, host: Host) -> None:
    python = python_with("openai-agents==0.24.0")
    check(converse(python, OTHERS / "with_openai_agents.py"), host)


def test_openais_agents_converse_in_node(converse: Converse, host: Host) -> None:
    folder = node_with("@openai/agents-realtime@0.20.0", "zod@4.1.0", "ws@8.18.0")
    check(converse("node", OTHERS / "with_agents_realtime.mjs", cwd=folder), host)


def test_livekits_agent_converses(converse: Converse, host: Host) -> None:
    python = python_with("livekit-agents==1.8.9", "livekit-plugins-openai==1.8.9")
    check(converse(python, OTHERS / "with_livekit.py"), host)


def test_pipecats_pipeline_converses(converse: Converse, host: Host) -> None:
    check(converse(python_with("pipecat-ai[openai]==1.14.0"), OTHERS / "with_pipecat.py"), host)
