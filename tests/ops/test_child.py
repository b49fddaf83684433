from __future__ import annotations

import signal
import sys
import time

import pytest

from orpheus.errors import NotReady
from orpheus.ops.child import ChildEnded, ChildServer, wait_until_healthy
from tests.support.live import free_port

SERVER = """
import signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        body = b'{"reason": "still loading"}'
        self.send_response(200 if Handler.asked > 2 else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started", flush=True)
if sys.argv[2] == "broken":
    sys.exit("no weights")
if sys.argv[2] == "orphan":
    sys.stdin.read()
    sys.exit(7)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def child(kind: str) -> ChildServer:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port), kind]
    return ChildServer("tier 0", command, f"http://127.0.0.1:{port}", capture=True)


def test_a_server_is_awaited_with_its_own_reason_and_stopped() -> None:
    server, said = child("usual"), []
    wait_until_healthy([server], 30, said.append)
    assert said[-2:] == ["tier 0: still loading"] * 2
    assert server.exit_code is None
    assert server.stop(5) == -signal.SIGTERM
    assert server.exit_code == -signal.SIGTERM


def test_a_server_that_exits_is_noticed_at_once_with_its_exit_code_and_last_output() -> None:
    healthy, broken = child("usual"), child("broken")
    with pytest.raises(ChildEnded, match=r"tier 0 ended with exit code 1 .*output: started\nno weights"):
        wait_until_healthy([healthy, broken], 30)
    assert broken.stop(5) == 1
    healthy.stop(5)


def test_a_server_that_never_becomes_healthy_is_not_ready() -> None:
    with (
        child("orphan") as server,
        pytest.raises(NotReady, match=r"tier 0 was not ready within 0\.3 s: starting"),
    ):
        wait_until_healthy([server], 0.3)
    assert server.exit_code is not None


def test_a_server_that_ignores_the_signal_is_killed() -> None:
    server = child("stubborn")
    while "started" not in server.output():
        time.sleep(0.01)
    assert server.stop(0.2) == -signal.SIGKILL


def test_its_standard_input_closes_with_this_process() -> None:
    server = child("orphan")
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(10) == 7
    server.stop(1)
