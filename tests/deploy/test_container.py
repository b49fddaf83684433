"""Both tiers in Modal's own container program, with nothing but what was shipped."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from orpheus.deploy import smoke
from orpheus.deploy.settings import LLAMA_APP, SPEECH_APP
from tests.deploy.container import ContainerPlane, Process
from tests.support.live import Pair

TEXT = "The boat drifted slowly down the river."
BODY = {"input": TEXT, "voice": "tara", "response_format": "pcm", "seed": 1}


@pytest.fixture(scope="module")
def speech(
    deployed: ContainerPlane, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Process]]:
    """Tier 2 in its container, in front of a tier 1 on this machine."""
    root = tmp_path_factory.mktemp("speech")
    given = {
        "ORPHEUS_LLAMA_ENDPOINT": pair.llama_url,
        "ORPHEUS_PROXY_KEY": "wk-1",
        "ORPHEUS_PROXY_SECRET": "ws-1",
    }
    with (
        deployed.container(SPEECH_APP, "Speech.*", root, **given) as (url, process),
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        assert client.get("/ready").status_code == 200, process.log
        yield client, process
    assert process.process.returncode == 0, process.log


def loud(samples: bytes) -> bool:
    return bool(np.abs(np.frombuffer(samples, "<i2")).max() > 1000)


def test_it_speaks(speech: tuple[httpx.Client, Process]) -> None:
    client, _ = speech
    answer = client.post("/v1/audio/speech", json=BODY)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 24_000
    assert loud(answer.content)


def test_it_speaks_as_events_that_arrive_one_by_one(speech: tuple[httpx.Client, Process]) -> None:
    client, _ = speech
    arrivals, sound = [], b""
    with client.stream("POST", "/v1/audio/speech", json=BODY | {"stream_format": "sse"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data:"):
                arrivals.append(time.monotonic())
                sound += base64.b64decode(json.loads(line[5:]).get("audio", ""))
    assert loud(sound)
    assert len(arrivals) > 3
    assert arrivals[-1] > arrivals[0]


def test_it_speaks_over_a_websocket(speech: tuple[httpx.Client, Process]) -> None:
    client, _ = speech
    url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/v1/audio/speech/stream/ws?voice=tara", proxy=None) as socket:
        socket.send(TEXT)
        sound = b"".join(part for part in socket if isinstance(part, bytes))
    assert len(sound) > 24_000
    assert loud(sound)
    assert socket.close_code == 1000


def test_a_wrong_request_is_told_what_is_wrong(speech: tuple[httpx.Client, Process]) -> None:
    client, _ = speech
    answer = client.post("/v1/audio/speech", json={"input": "x", "voice": "nobody"})
    assert answer.status_code == 400
    assert "nobody" in answer.json()["error"]["message"]


def test_a_listener_who_leaves_takes_no_place(speech: tuple[httpx.Client, Process]) -> None:
    client, _ = speech
    long = {**BODY, "input": "The boat drifted slowly down the river, and nobody said a word. " * 20}
    with client.stream("POST", "/v1/audio/speech", json=long) as answer:
        next(answer.iter_raw())
    deadline = time.monotonic() + 20
    while client.get("/ready").json()["codec"]["open_streams"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.get("/ready").json()["codec"]["open_streams"] == 0


def test_the_log_is_one_object_a_line_and_tier_1_was_woken(speech: tuple[httpx.Client, Process]) -> None:
    _, process = speech
    lines = [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]
    assert any("tier 1 at" in line["message"] and "answers 200" in line["message"] for line in lines)
    assert "ws-1" not in process.log


def test_the_smoke_test_hears_it(
    speech: tuple[httpx.Client, Process], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, _ = speech
    heard = smoke.try_speech(str(client.base_url).rstrip("/"), out=str(tmp_path / "out.wav"))
    assert heard.audio_s > 0.5
    assert (tmp_path / "out.wav").stat().st_size > 24_000
    said = capsys.readouterr().out
    assert "cold: first audio after" in said
    assert "warm: first audio after" in said


def test_tier_1_starts_and_stops_in_its_container(deployed: ContainerPlane, root: Path) -> None:
    with deployed.container(LLAMA_APP, "Llama", root) as (_, process):
        url = f"http://127.0.0.1:{deployed.definition(LLAMA_APP, 'Llama').http_config.port}"
        while "its first frame took" not in process.log:
            assert process.process.poll() is None, process.log
            time.sleep(0.1)
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        smoke.try_llama(url)
    assert process.process.returncode == 0, process.log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_weights_that_are_not_in_the_volume_end_the_start_with_what_to_do(
    deployed: ContainerPlane, root: Path, tmp_path: Path
) -> None:
    missing = {"ORPHEUS_MODEL": "some/one:m.gguf", "HF_HUB_CACHE": str(tmp_path)}
    with deployed.container(LLAMA_APP, "Llama", root, **missing) as (_, process):
        assert process.process.wait(60) == 0  # reported as the task's result
    assert deployed.failure is not None
    assert "modal run orpheus_llama_modal.py::fetch_weights" in deployed.failure


def test_told_to_go_tier_2_ends_what_is_under_way(
    speech: tuple[httpx.Client, Process], deployed: ContainerPlane
) -> None:
    """The last test: it ends the container that the others share."""
    client, process = speech
    events = []
    with client.stream("POST", "/v1/audio/speech", json=BODY | {"stream_format": "sse"}) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data:"))
        events.append(next(lines))
        deployed.scale_down()
        events += lines
    assert "speech.audio.done" in events[-1]
    assert process.process.wait(30) == 0
