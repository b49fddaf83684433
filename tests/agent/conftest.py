from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from orpheus.agent.app import install
from orpheus.agent.conversation import Ports
from orpheus.codec import Codec
from orpheus.http.process import listen
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.token_source import HttpTokenSource
from tests.server.conftest import SharedCodec, _upstream_server, upstream  # noqa: F401 - fixtures
from tests.support.agent import RealtimeClient, Script
from tests.support.live import served
from tests.support.upstream import Upstream
from tests.support.waiting import eventually


class Host:
    """A running agent, its script, and its service."""

    def __init__(self, url: str, script: Script, service: SpeechService, agent: Any, house_port: int) -> None:
        self.url = url
        self.house_port = house_port  # of Wyoming
        self.script = script
        self.service = service
        self.agent = agent

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="session")
def start_host(
    codec: Codec,
    _upstream_server: tuple[Upstream, str],  # noqa: F811
) -> Callable[..., Host]:
    def start(stack: ExitStack, ports: Callable[[Script], Ports] = Script.ports, **options: Any) -> Host:
        defaults = {
            "llama_endpoint": _upstream_server[1],
            "model": "embedded",
            "postprocess": False,
            "max_conversations": 4,
        }
        settings = load_settings(**(defaults | options))
        service = SpeechService(settings, lambda: HttpTokenSource(settings), lambda _: SharedCodec(codec))
        app = create_app(service)
        script = Script()
        house = stack.enter_context(listen("127.0.0.1", 0, ""))
        agent = install(app, service, settings, lambda _: ports(script), house=house)
        house_port = house.getsockname()[1]
        url = stack.enter_context(served(app))
        eventually(lambda: httpx.get(f"{url}/ready", trust_env=False).status_code == 200)
        return Host(url, script, service, agent, house_port)

    return start


@pytest.fixture(scope="session")
def _host(start_host: Callable[..., Host]) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start_host(stack)


@pytest.fixture
def host(_host: Host, upstream: Upstream) -> Iterator[Host]:  # noqa: F811
    """The agent that tests share, with a new script."""
    fresh = Script()
    _host.script.speech, _host.script.recognizer.speech = fresh.speech, fresh.speech
    recognizer, thinker = _host.script.recognizer, _host.script.thinker
    recognizer.__init__(fresh.speech)  # type: ignore[misc]
    thinker.__init__()  # type: ignore[misc]
    yield _host
    upstream.go_on.set()
    eventually(lambda: _host.agent.metrics.conversations._value.get() == 0)


@pytest.fixture
def talk(host: Host) -> Iterator[Callable[..., RealtimeClient]]:
    """A conversation that has begun, with these changes of the session."""
    with ExitStack() as stack:

        def begin(path: str = "/v1/realtime", *, at: Host | None = None, **session: Any) -> RealtimeClient:
            where = at or host
            url = where.url.replace("http", "ws", 1) + path
            socket = stack.enter_context(connect(url, proxy=None, max_size=1_000_000))
            client = RealtimeClient(socket, where.script)
            client.until("session.created")
            if session:
                client.update(**session)
            return client

        yield begin
