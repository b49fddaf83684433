"""A real process told to stop: what is nearly done ends well, the rest breaks where its client can see it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from orpheus.http.process import STOP_S
from tests.support.live import clean_environment, free_port, healthy
from tests.support.speech import PATH, ask
from tests.support.upstream import Upstream, whole

DRAIN_S = 2
SECRET = "sk-very-secret"


@pytest.fixture
def process(
    _upstream_server: tuple[Upstream, str], upstream: Upstream, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`orpheus speech` in front of the scripted tier 1, and its URL; its log is in `tmp_path`."""
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orpheus", "speech", "--port", str(port), "--codec", "embedded"],
            env=clean_environment(
                ORPHEUS_LLAMA_ENDPOINT=_upstream_server[1],
                ORPHEUS_DRAIN_S=str(DRAIN_S),
                ORPHEUS_LOG_FORMAT="json",
                ORPHEUS_POSTPROCESS="false",  # every sample of the script is heard
                ORPHEUS_API_KEYS=SECRET,
                no_proxy="*",
            ),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 60
            while not healthy(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_told_to_stop_it_ends_what_it_can_and_breaks_the_rest(
    process: tuple[subprocess.Popen[bytes], str], upstream: Upstream, tmp_path: Path
) -> None:
    server, url = process
    ends: dict[str, object] = {}
    started = threading.Barrier(5, timeout=20)

    def listen(name: str, **body: object) -> None:
        size = 0
        seen = b""
        with httpx.Client(base_url=url, trust_env=False, headers={"x-api-key": SECRET}) as client:
            try:
                with client.stream("POST", PATH, json=ask(response_format="pcm", **body)) as response:
                    for chunk in response.iter_raw():
                        if not size:
                            started.wait()
                        size += len(chunk)
                        seen = (seen + chunk)[-2000:]
                ends[name] = size
            except httpx.RemoteProtocolError:
                ends[name] = b"broken " + seen if "stream_format" in body else "broken"

    def listen_by_socket(name: str) -> None:
        base = url.replace("http", "ws", 1)
        with connect(f"{base}/v1/audio/speech/stream/ws?api_key={SECRET}", proxy=None) as socket:
            socket.send("Hello.")
            socket.recv()
            started.wait()
            with contextlib.suppress(ConnectionClosed):
                while True:
                    socket.recv()
            ends[name] = socket.close_code

    def run(target: Callable[..., None], *args: object, **body: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, kwargs=body, daemon=True)
        thread.start()
        return thread

    upstream.pause_s, upstream.events = 0.05, whole(30)  # 1.5 s: within the time
    threads = [run(listen, "short")]
    deadline = time.monotonic() + 5
    while len(upstream.requests) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    upstream.events = whole(400)  # 20 s: not within it
    threads += [run(listen, "long"), run(listen, "sse", stream_format="sse"), run(listen_by_socket, "socket")]
    with httpx.Client(base_url=url, trust_env=False) as kept:
        assert kept.get("/ready").status_code == 200
        started.wait()
        told = time.monotonic()
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ready = kept.get("/ready")  # on a connection that was open already
        assert (ready.status_code, "stopping" in ready.json()["reason"]) == (503, True)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/live", trust_env=False)
    server.wait(10)
    assert time.monotonic() - told < DRAIN_S + STOP_S + 1
    for thread in threads:
        thread.join(5)
    assert ends["short"] == 30 * 2048 * 2
    assert ends["long"] == "broken"
    assert ends["socket"] == 1013
    assert isinstance(ends["sse"], bytes)
    assert b"event: error" in ends["sse"]

    log = (tmp_path / "log").read_text()
    assert SECRET not in log
    assert "Traceback" not in log
    assert "traceback" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    outcomes = sorted(line["outcome"] for line in lines if line.get("route", "").startswith(PATH))
    assert outcomes == ["done", "failed", "failed", "failed"]


def test_sockets_on_which_nothing_is_said_are_told_and_logged(
    process: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    server, url = process
    paths = ("/v1/audio/speech/stream", "/ws", "/api/tts_streaming")
    with contextlib.ExitStack() as stack:
        base = url.replace("http", "ws", 1)
        sockets = [
            stack.enter_context(connect(f"{base}{path}?api_key={SECRET}", proxy=None)) for path in paths
        ]
        server.send_signal(signal.SIGTERM)
        for socket in sockets:
            with pytest.raises(ConnectionClosed):
                while True:
                    socket.recv(10)
            assert socket.close_code == 1012
    server.wait(10)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = {line["route"]: line["status"] for line in lines if line["message"] == "WS"}
    assert told == dict.fromkeys(paths, 1012)
