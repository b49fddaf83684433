"""A real process that gets SIGTERM: short speech is finished, the rest is broken off visibly."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.live import clean_environment, free_port, healthy
from tests.support.speech import PATH, ask
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

DRAIN_S = 4
SECRET = "sk-very-secret"
# On a busy machine a stream may need longer to notice that it is interrupted, and to send its error.
PROGRAM = """
from orpheus import cli
from orpheus.server import admission

admission.BREAK_S, admission.SEND_S = 20, 2
cli.main()
"""

LONG_TEXT = (
    "and then it goes on " * 12
)  # 42 s: after as many frames as a text may take, tier 1 is given up on


@pytest.fixture
def process(
    _upstream_server: tuple[Upstream, str], upstream: Upstream, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`orpheus speech` in front of the scripted tier 1, and its URL; its log is in `tmp_path`."""
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "speech", "--port", str(port), "--codec", "embedded"],
            env=clean_environment(
                ORPHEUS_LLAMA_ENDPOINT=_upstream_server[1],
                ORPHEUS_DRAIN_S=str(DRAIN_S),
                ORPHEUS_LOG_FORMAT="json",
                ORPHEUS_POSTPROCESS="false",  # so that no sample is trimmed
                ORPHEUS_API_KEYS=SECRET,
                no_proxy="*",
            ),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:

            def is_up() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                return healthy(f"http://127.0.0.1:{port}")

            eventually(is_up, 60)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_shutdown_finishes_what_it_can_and_breaks_off_the_rest(
    process: tuple[subprocess.Popen[bytes], str], upstream: Upstream, tmp_path: Path
) -> None:
    server, url = process
    ends: dict[str, object] = {}
    started = threading.Barrier(5, timeout=60)

    def listen(name: str, **body: object) -> None:
        size = 0
        seen = b""
        with httpx.Client(base_url=url, trust_env=False, timeout=60, headers={"x-api-key": SECRET}) as client:
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
            socket.send(LONG_TEXT)
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

    upstream.pause_s, upstream.events = 0.05, whole(30)  # 1.5 s: ends within DRAIN_S
    threads = [run(listen, "short")]
    eventually(lambda: upstream.requests)
    upstream.events = whole(2000)  # 100 s: does not
    threads += [
        run(listen, "long", input=LONG_TEXT),
        run(listen, "sse", input=LONG_TEXT, stream_format="sse"),
        run(listen_by_socket, "socket"),
    ]
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as kept:
        assert kept.get("/ready").status_code == 200
        started.wait()
        server.send_signal(signal.SIGTERM)
        # On a connection that was open before.
        eventually(lambda: "shutting down" in (kept.get("/ready").json()["reason"] or ""))
        assert kept.get("/ready").status_code == 503
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/live", trust_env=False)
    server.wait(30)
    for thread in threads:
        thread.join(15)
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


def test_idle_websockets_are_closed_with_1012_and_logged(
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
    server.wait(30)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    closed = {line["route"]: line["status"] for line in lines if line["message"] == "WS"}
    assert closed == dict.fromkeys(paths, 1012)
