"""Both tiers in Modal's own container program, with nothing but what was shipped."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from grpclib import Status
from websockets.sync.client import connect

from orpheus.deploy import smoke
from orpheus.deploy.settings import LLAMA_APP, SPEECH_APP
from orpheus.deploy.speech import ModalTokenSource
from orpheus.settings import load_settings
from tests.deploy.control_plane import Container, ControlPlane
from tests.support.hub import TOKEN, Hub
from tests.support.live import Pair, served
from tests.support.upstream import Upstream

pytestmark = pytest.mark.slow

TEXT = "The boat drifted slowly down the river."
BODY = {"input": TEXT, "voice": "tara", "response_format": "pcm", "seed": 1}
SSE = BODY | {"stream_format": "sse"}


@dataclass
class Speech:
    """Tier 2 in its container; `early` are its answers before tier 1 was deployed."""

    client: httpx.Client
    container: Container
    early: list[httpx.Response]


@pytest.fixture(scope="module")
def speech(deployed: ControlPlane, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speech]:
    root = tmp_path_factory.mktemp("speech")
    deployed.urls[LLAMA_APP] = pair.llama_url
    deployed.refuse["FunctionGet"] = (Status.NOT_FOUND, "no such app")
    with (
        deployed.container(SPEECH_APP, "Speech.*", root, ORPHEUS_PROXY_KEY="wk-1") as container,
        httpx.Client(base_url=deployed.front, timeout=60, trust_env=False) as client,
    ):
        early = [client.get("/live"), client.get("/ready"), client.post("/v1/audio/speech", json=BODY)]
        del deployed.refuse["FunctionGet"]
        yield Speech(client, container, early)
    assert container.process.returncode == 0, container.log


def loud(samples: bytes) -> bool:
    return bool(np.abs(np.frombuffer(samples, "<i2")).max() > 1000)


def test_before_tier_1_is_deployed_it_is_up_and_says_what_is_missing(speech: Speech) -> None:
    live, ready, answer = speech.early
    assert [live.status_code, ready.status_code, answer.status_code] == [200, 503, 503], speech.container.log
    assert "is not deployed" in ready.json()["reason"]
    assert "is not deployed" in answer.json()["error"]["message"]


def test_it_finds_tier_1_and_speaks(speech: Speech) -> None:
    assert speech.client.get("/ready").status_code == 200
    answer = speech.client.post("/v1/audio/speech", json=BODY)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 24_000
    assert loud(answer.content)


def test_it_speaks_in_events_that_arrive_one_by_one(speech: Speech) -> None:
    arrivals, audio = [], b""
    with speech.client.stream("POST", "/v1/audio/speech", json=SSE) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data:"):
                arrivals.append(time.monotonic())
                audio += base64.b64decode(json.loads(line[5:]).get("audio", ""))
    assert loud(audio)
    assert len(arrivals) > 3
    assert arrivals[-1] > arrivals[0]


def test_it_speaks_over_a_websocket(speech: Speech) -> None:
    url = str(speech.client.base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/v1/audio/speech/stream/ws?voice=tara", proxy=None) as socket:
        socket.send(TEXT)
        audio = b"".join(part for part in socket if isinstance(part, bytes))
    assert len(audio) > 24_000
    assert loud(audio)
    assert socket.close_code == 1000


def test_a_client_that_leaves_holds_no_capacity(speech: Speech) -> None:
    long = BODY | {"input": "The boat drifted slowly down the river, and nobody said a word. " * 20}
    with speech.client.stream("POST", "/v1/audio/speech", json=long) as answer:
        next(answer.iter_raw())
    deadline_s = time.monotonic() + 20
    while speech.client.get("/ready").json()["codec"]["open_streams"]:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_the_smoke_test_hears_it(speech: Speech, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smoke.try_speech(str(speech.client.base_url).rstrip("/"), out=str(tmp_path / "out.wav"))
    assert (tmp_path / "out.wav").stat().st_size > 24_000
    assert [line.split(" after")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "start: answers",
        "cold: first audio",
        "warm: first audio",
    ]


def test_its_log_is_one_object_per_line_without_secrets(speech: Speech) -> None:
    log = speech.container.log
    messages = [json.loads(line)["message"] for line in log.splitlines() if line.startswith("{")]
    assert any(message.startswith("tier 1 was asked to start") for message in messages)
    assert "wk-1" not in log


def test_when_scaled_down_it_finishes_running_streams(speech: Speech, deployed: ControlPlane) -> None:
    """The last test of that container."""
    with speech.client.stream("POST", "/v1/audio/speech", json=SSE) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data:"))
        events = [next(lines)]
        deployed.scale_down()
        events += lines
    assert "speech.audio.done" in events[-1]
    assert speech.container.process.wait(30) == 0


def test_tier_1_starts_and_stops_in_its_container(deployed: ControlPlane, tmp_path: Path) -> None:
    with deployed.container(LLAMA_APP, "Llama", tmp_path) as container:
        url = f"http://127.0.0.1:{deployed.function(LLAMA_APP, 'Llama')['http_config']['port']}"
        while "its first frame took" not in container.log:
            assert container.process.poll() is None, container.log
            time.sleep(0.1)
        smoke.try_llama(url)
    assert container.process.returncode == 0, container.log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_weights_that_are_not_in_the_volume_end_the_start_with_what_to_do(
    deployed: ControlPlane, tmp_path: Path
) -> None:
    missing = {"ORPHEUS_MODEL": "some/one:m.gguf", "HF_HUB_CACHE": str(tmp_path / "volume")}
    with deployed.container(LLAMA_APP, "Llama", tmp_path, **missing) as container:
        assert container.process.wait(60) == 0  # reported as the task's result
    assert "modal run orpheus_llama_modal.py::fetch_weights" in deployed.failure


def test_weights_are_fetched_with_the_token_of_whoever_deployed_and_committed(
    deployed: ControlPlane, tmp_path: Path
) -> None:
    hub = Hub()
    hub.files = {"some/codec": {"config.json": b"{}", "pytorch_model.bin": b"x" * 1000}}
    hub.gated = {"some/codec"}
    with served(hub.app) as url:
        given = {
            "ORPHEUS_CODEC": "some/codec",
            "HF_ENDPOINT": url,
            "HF_HUB_CACHE": str(tmp_path / "volume"),
            "HF_HUB_DISABLE_XET": "1",
        }
        with deployed.container(SPEECH_APP, "fetch_weights", tmp_path, **given) as container:
            fetched = deployed.call()
    assert fetched.startswith("codec: some/codec, 0 MB, checked in"), container.log
    assert deployed.function(SPEECH_APP, "fetch_weights")["environment"]["HF_TOKEN"] == TOKEN
    assert any(name == "VolumeCommit" for name, _ in deployed.calls)


def test_an_endpoint_in_the_settings_is_used_without_asking_modal() -> None:
    async def check(url: str) -> None:
        source = ModalTokenSource(load_settings(llama_endpoint=url))
        await source.check()
        await source.aclose()

    with served(Upstream().app) as url:
        asyncio.run(check(url))
