"""The agent and its LLM in Modal's own container program, with nothing but what was shipped."""

from __future__ import annotations

import io
import json
import re
import time
import wave
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from orpheus.deploy import smoke
from orpheus.deploy.agent import Answer
from orpheus.deploy.settings import AGENT_APP, LLM_APP, LLM_MODEL
from orpheus.server.sockets.connection import KEEP_ALIVE_S
from orpheus.tts.encode import wav_header
from tests.deploy.conftest import AGENT_SCRIPT, EMBEDDED, KEY, modal_deploy, port_before_a_free_one
from tests.deploy.control_plane import Container, ControlPlane
from tests.support import vllm_command
from tests.support.generation import spoken
from tests.support.hub import Hub
from tests.support.live import Pair, served
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
LIMIT_BYTES = 2 << 20  # of a message, at Modal's proxy


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with what the LLM is served from, as far as that is looked at."""
    cache = tmp_path_factory.mktemp("volume")
    folder = cache / f"models--{LLM_MODEL.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    (folder / "snapshots" / "c0ffee" / "model.safetensors").touch()
    return cache


@dataclass
class Agent:
    """The agent in its container, and two sockets that were opened before there was an LLM."""

    container: Container
    url: str
    llm_folder: Path
    early: list[ClientConnection] = field(default_factory=list)
    created_s: float = 0.0

    def talk(self, **headers: str) -> ClientConnection:
        return connect(
            f"{self.url.replace('http', 'ws', 1)}/v1/realtime",
            additional_headers=headers or {"x-api-key": KEY},
            proxy=None,
            max_size=None,
        )


@pytest.fixture(scope="module")
def agent(
    deployed_agent: ControlPlane, pair: Pair, volume: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    plane, llm_folder = deployed_agent, tmp_path_factory.mktemp("llm")
    port = plane.function(LLM_APP, "Llm")["http_config"]["port"]
    plane.urls[LLM_APP] = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        container = stack.enter_context(
            plane.container(
                AGENT_APP,
                "Agent.*",
                tmp_path_factory.mktemp("agent"),
                ORPHEUS_LLAMA_ENDPOINT=pair.llama_url,
                ORPHEUS_THREADS="1",
            )
        )
        agent = Agent(container, plane.front, llm_folder)
        live(agent.url, container)
        began_s = time.monotonic()
        for _ in range(2):
            agent.early.append(stack.enter_context(agent.talk()))
            assert json.loads(agent.early[-1].recv(20))["type"] == "session.created"
        agent.created_s = time.monotonic() - began_s
        begin_to_ask(agent.early[0], "Hello.")
        eventually(lambda: "is asleep: waiting up to 140 s" in container.log, 60)
        inside = {"HF_HUB_CACHE": str(volume), **vllm_command.install(llm_folder)}
        llm = stack.enter_context(plane.container(LLM_APP, "Llm", tmp_path_factory.mktemp("vllm"), **inside))
        eventually(lambda: "the LLM is up" in llm.log or llm.process.poll() is not None, 60)
        assert llm.process.poll() is None, llm.log
        yield agent
    assert container.process.returncode == 0, container.log


def live(url: str, container: Container) -> None:
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.get("/live").status_code == 200, container.log


def ask(socket: ClientConnection, text: str) -> dict[str, Any]:
    """Write something to the agent; the response to it."""
    begin_to_ask(socket, text)
    return answer_on(socket)


def asked_of(agent: Agent, words: str) -> list[dict[str, Any]]:
    """What the LLM was asked with these words last; an early conversation, which waited for it, may ask at any time."""
    return [
        request
        for request in vllm_command.seen(agent.llm_folder)
        if "messages" in request and words in request["messages"][-1]["content"]
    ]


def begin_to_ask(socket: ClientConnection, text: str) -> None:
    say(socket, "user", "input_text", text)
    socket.send(json.dumps({"type": "response.create"}))


def answer_on(socket: ClientConnection) -> dict[str, Any]:
    """The next response, with the size of the largest of its messages, in characters."""
    largest = 0
    while True:
        raw = socket.recv(60)
        largest = max(largest, len(raw))
        event = json.loads(raw)
        assert event["type"] != "error", event
        if event["type"] == "response.done":
            return {**event["response"], "largest": largest}


def say(socket: ClientConnection, role: str, kind: str, text: str) -> None:
    item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
    socket.send(json.dumps({"type": "conversation.item.create", "item": item}))


def test_a_conversation_begins_at_once_and_its_answer_waits_for_the_llm_to_start(agent: Agent) -> None:
    assert agent.created_s < 10
    response = answer_on(agent.early[0])
    assert response["status"] == "completed", agent.container.log
    assert response["output"][0]["content"][0]["transcript"] == vllm_command.ANSWER
    assert response["largest"] < LIMIT_BYTES


def test_vllm_is_started_with_the_model_of_the_volume_and_without_reasoning_aloud(
    agent: Agent, volume: Path
) -> None:
    started = vllm_command.seen(agent.llm_folder)[0]
    assert (started["model"], started["served_model_name"]) == (LLM_MODEL, [LLM_MODEL])
    assert (started["host"], started["HF_HUB_OFFLINE"]) == ("0.0.0.0", "1")
    assert started["default_chat_template_kwargs"] == {"enable_thinking": False}
    assert started["HF_HUB_CACHE"] == str(volume)
    assert started["VLLM_CACHE_ROOT"].startswith("/weights/")  # where the Volume is mounted


def test_the_smoke_test_holds_a_turn_and_prints_its_stages(
    agent: Agent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPHEUS_API_KEYS", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    smoke.try_agent(agent.url)
    _, start, heard, thought, said = capsys.readouterr().out.splitlines()
    assert start.startswith("start: answers after")
    assert re.match(r"\[ASR\] transcribed in \d+\.\d\d s: .*France", heard)
    assert vllm_command.ANSWER in thought
    assert said.startswith("[TTS] first audio after")


def test_only_who_has_a_key_may_talk_and_who_has_none_is_told(agent: Agent) -> None:
    """Modal cannot refuse a handshake with a sentence: the socket is closed with it."""
    for headers in ({"x-api-key": "another"}, {"Modal-Key": "wk"}):
        with agent.talk(**headers) as socket, pytest.raises(ConnectionClosedError):
            socket.recv(20)
        assert socket.close_code == 1008
        assert "key" in str(socket.close_reason)
    answer = httpx.post(f"{agent.url}/v1/audio/speech-to-speech", content=b"RIFF", trust_env=False)
    assert answer.status_code == 401


def test_a_browser_talks_with_an_ephemeral_key(agent: Agent) -> None:
    made = httpx.post(
        f"{agent.url}/v1/realtime/client_secrets",
        headers={"Authorization": f"Bearer {KEY}"},
        json={"session": {"type": "realtime", "instructions": "You are a pirate."}},
        trust_env=False,
    ).json()
    with connect(
        f"{agent.url.replace('http', 'ws', 1)}/v1/realtime",
        subprotocols=["realtime", f"openai-insecure-api-key.{made['value']}"],  # type: ignore[list-item]
        proxy=None,
    ) as socket:
        created = json.loads(socket.recv(20))
    assert created["session"]["instructions"] == "You are a pirate."


def test_after_a_dropped_socket_a_client_puts_the_conversation_back_and_goes_on(agent: Agent) -> None:
    with agent.talk() as socket:
        ask(socket, "My name is Ada.")
        socket.socket.close()  # as preemption does
    with agent.talk() as socket:
        say(socket, "user", "input_text", "My name is Ada.")
        say(socket, "assistant", "output_text", vllm_command.ANSWER)
        response = ask(socket, "What is my name?")
    assert response["status"] == "completed"
    asked = asked_of(agent, "What is my name?")[-1]["messages"]
    assert [(message["role"], message["content"]) for message in asked[1:]] == [
        ("user", "My name is Ada."),
        ("assistant", vllm_command.ANSWER),
        ("user", "What is my name?"),
    ]


def test_a_recording_is_answered_as_a_wav_file_and_with_a_seed_the_same_way_again(
    agent: Agent, deployed_agent: ControlPlane, pair: Pair
) -> None:
    samples = spoken(pair.url, QUESTION, seed=1)
    recording = wav_header(24_000, len(samples)) + samples
    first, second = (
        deployed_agent.call(recording, {"seed": 3, "voice": "leo"}, method="answer") for _ in range(2)
    )
    assert isinstance(first, Answer)
    assert first.wav == second.wav
    with wave.open(io.BytesIO(first.wav)) as file:
        assert file.getframerate() == 24_000
        assert file.getnframes() > 24_000
        assert len(first.wav) == 44 + 2 * file.getnframes()
    heard, thought, said = first.stages
    assert re.match(r"\[ASR\] transcribed in \d+\.\d\d s: .*France", heard)
    assert vllm_command.ANSWER in thought
    assert said.startswith("[TTS] spoke in ")
    asked = asked_of(agent, "France")
    assert [request["temperature"] for request in asked[-2:]] == [0.0, 0.0]


def test_no_message_comes_near_the_limit_of_modals_proxy(agent: Agent) -> None:
    """Also where it repeats the longest that a client may send."""
    with agent.talk() as socket:
        socket.recv(20)
        say(socket, "user", "input_text", "é" * 100_000)
        for name in ("added", "done"):
            told = str(socket.recv(20))
            assert json.loads(told)["type"] == f"conversation.item.{name}"
            assert len(told.encode()) < LIMIT_BYTES
        with pytest.raises(ConnectionClosedError):
            socket.send("a" * ((1 << 20) + 1))
            socket.recv(20)
        assert socket.close_code == 1009


def test_a_socket_on_which_nobody_speaks_hears_something_every_ten_seconds(agent: Agent) -> None:
    """Modal drops a silent one, whatever pings it gets."""
    assert KEEP_ALIVE_S <= 10
    assert json.loads(agent.early[1].recv(20))["type"] == "rate_limits.updated"


def test_everything_on_one_gpu_holds_a_turn_and_ends_together(
    pair: Pair,
    volume: Path,
    plane: ControlPlane,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = port_before_a_free_one()
    plane.secrets["voice-auth"] = {"ORPHEUS_API_KEYS": KEY}  # it calls nobody behind a proxy
    modal_deploy(plane, AGENT_SCRIPT, ORPHEUS_SINGLE="true", ORPHEUS_LLAMA_PORT=str(port), **EMBEDDED)
    inside = {"HF_HUB_CACHE": str(volume), "ORPHEUS_THREADS": "1", **vllm_command.install(tmp_path)}
    root = tmp_path / "container"
    root.mkdir()
    with plane.container(AGENT_APP, "Agent.*", root, **inside) as container:
        live(plane.front, container)
        monkeypatch.setenv("ORPHEUS_API_KEYS", KEY)
        monkeypatch.setenv("NO_PROXY", "*")
        smoke.try_agent(plane.front)
    assert container.process.returncode == 0, container.log
    assert vllm_command.ANSWER in capsys.readouterr().out
    assert (
        vllm_command.seen(tmp_path)[0]["gpu_memory_utilization"] == 0.5
    )  # the rest is tier 1's and the codec's
    for left in (port, port + 1):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{left}/health", trust_env=False)


def test_without_a_key_in_the_secret_nothing_starts(deployed_agent: ControlPlane, tmp_path: Path) -> None:
    with deployed_agent.container(AGENT_APP, "Agent.*", tmp_path, ORPHEUS_API_KEYS="") as container:
        assert container.process.wait(60) == 0  # reported as the task's result
    assert "anybody could use the agent" in deployed_agent.failure


def test_an_llm_that_is_not_in_the_volume_ends_the_start_with_what_to_do(
    deployed_agent: ControlPlane, tmp_path: Path
) -> None:
    missing = {"HF_HUB_CACHE": str(tmp_path / "volume"), **vllm_command.install(tmp_path)}
    root = tmp_path / "container"
    root.mkdir()
    with deployed_agent.container(LLM_APP, "Llm", root, **missing) as container:
        assert container.process.wait(60) == 0
    assert "modal run -m orpheus.deploy.llm_app::fetch_weights" in deployed_agent.failure


def test_the_weights_of_the_llm_are_fetched_with_the_token_of_whoever_deployed(
    deployed_agent: ControlPlane, tmp_path: Path
) -> None:
    hub = Hub()
    hub.files = {LLM_MODEL: {"config.json": b"{}", "model.safetensors": b"x" * 1000, "model.gguf": b"x"}}
    hub.gated = {LLM_MODEL}
    with served(hub.app) as url:
        given = {
            "HF_ENDPOINT": url,
            "HF_HUB_CACHE": str(tmp_path / "volume"),
            "HF_HUB_DISABLE_XET": "1",
        }
        with deployed_agent.container(LLM_APP, "fetch_weights", tmp_path, **given) as container:
            assert deployed_agent.call().startswith(f"LLM: {LLM_MODEL}, 0 MB, checked in"), container.log
    assert hub.asked == [f"{LLM_MODEL}/config.json", f"{LLM_MODEL}/model.safetensors"]


def test_the_function_of_the_app_passes_a_recording_to_the_agent_and_returns_its_wav(
    deployed_agent: ControlPlane, tmp_path: Path
) -> None:
    deployed_agent.results[AGENT_APP] = Answer(b"RIFF of the agent", ["[ASR] …"])
    with deployed_agent.container(AGENT_APP, "speech_to_speech", tmp_path) as container:
        assert deployed_agent.call(b"RIFF of a caller") == b"RIFF of the agent", container.log
    asked = [request for name, request in deployed_agent.calls if name == "FunctionMap"][-1]
    (given,) = asked.pipelined_inputs
    assert b"RIFF of a caller" in given.input.args
    assert given.input.method_name == "answer"
