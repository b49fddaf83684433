"""What one connection can cost a server, below any route: time, descriptors, turns, memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import resource
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.faults import hostile, wire
from benchmarks.faults.hostile import (
    answer_of,
    asked,
    chunked,
    frame,
    head,
    opened,
    post,
    received_until,
    socket_of,
    upgrade,
)
from orpheus.http import connections
from orpheus.http.body_limit import MAX_BODY_BYTES, BodyLimit
from orpheus.http.connections import Peer
from orpheus.http.protocols import HttpProtocol
from tests.support.live import keep_little_unread, served
from tests.support.waiting import eventually

KIB = 1024
REQUESTS, HANDSHAKES = wire.wrong_requests("/echo"), wire.wrong_handshakes("/socket")


class App:
    """Echoes bodies and messages, refuses, streams for ever, waits to be told to answer; counts what runs."""

    def __init__(self) -> None:
        self.running = 0
        self.go_on = threading.Event()
        self.headers: dict[str, str] = {}
        methods = ["GET", "POST"]
        self.asgi = Starlette(
            routes=[
                Route("/live", lambda request: PlainTextResponse("yes"), methods=methods),
                Route("/echo", self._echo, methods=methods),
                Route("/stream", self._stream, methods=methods),
                Route("/wait", self._wait, methods=methods),
                WebSocketRoute("/socket", self._socket),
            ],
            middleware=[Middleware(BodyLimit)],
        )

    async def _echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self._endless())

    async def _endless(self) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            while True:
                await asyncio.sleep(0.001)
                yield bytes(16 * KIB)
        finally:
            self.running -= 1

    async def _wait(self, request: Request) -> Response:
        self.running += 1
        try:
            while not (self.go_on.is_set() or await request.is_disconnected()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        finally:
            self.running -= 1
        return PlainTextResponse("at last")

    async def _socket(self, client: WebSocket) -> None:
        self.headers = dict(client.headers)
        await client.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await client.send_text(await client.receive_text())


@pytest.fixture(scope="module")
def _served() -> Iterator[tuple[App, str]]:
    app = App()
    with served(app.asgi) as url:
        yield app, url


@pytest.fixture
def app(_served: tuple[App, str]) -> Iterator[App]:
    app, _ = _served
    app.go_on.clear()
    yield app
    app.go_on.set()
    eventually(lambda: app.running == 0)


@pytest.fixture
def url(_served: tuple[App, str], app: App) -> str:
    return _served[1]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets limits, looked after often enough to notice soon."""

    def set_limits(**seconds: float) -> None:
        for name, value in {"CHECK_S": 0.02, **seconds}.items():
            monkeypatch.setattr(connections, name, value)

    return set_limits


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system keeps little of what was not read, so that tests need not send megabytes."""
    keep_little_unread(monkeypatch)


class TestReading:
    def test_a_client_that_stops_reading_is_dropped(
        self, app: App, url: str, limits: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        limits(STALL_S=0.4)
        caplog.set_level(logging.INFO, "orpheus.http.connections")
        with opened(url, receive_bytes=4 * KIB) as client:
            client.sendall(head("GET", "/stream"))
            eventually(lambda: app.running == 1)
            eventually(lambda: app.running == 0)
            assert answer_of(client).end == "reset"
        assert "read nothing" in caplog.text

    def test_a_client_that_reads_a_little_at_a_time_is_served(
        self, app: App, url: str, limits: Callable[..., None], small_buffers: None
    ) -> None:
        limits(STALL_S=1.0)
        with opened(url, receive_bytes=4 * KIB) as client:
            client.sendall(head("GET", "/stream"))
            started_s, got = time.monotonic(), 0
            while time.monotonic() < started_s + 3:
                got += len(client.recv(KIB))
                time.sleep(0.05)
            assert app.running == 1
        assert got > 10 * KIB

    def test_what_the_system_holds_counts_as_unread_and_what_it_passes_on_as_read(
        self, app: App, url: str, limits: Callable[..., None]
    ) -> None:
        """Megabytes lie between: the server itself sends nothing for seconds, while the client reads on."""
        limits(STALL_S=2.0)
        with opened(url, receive_bytes=16 * KIB) as client:
            client.sendall(head("GET", "/stream"))
            time.sleep(0.5)
            started_s = time.monotonic()
            while time.monotonic() < started_s + 3:
                assert client.recv(4 * KIB)
                time.sleep(0.02)
            assert app.running == 1

    def test_a_whole_answer_in_memory_is_read_slowly_or_dropped(
        self, app: App, url: str, limits: Callable[..., None], small_buffers: None
    ) -> None:
        limits(STALL_S=0.4)
        body = bytes(MAX_BODY_BYTES)
        for stuck in (False, True):
            with opened(url, receive_bytes=64 * KIB) as client:
                client.sendall(post(body, "/echo", [("Connection", "close")]))
                time.sleep(1 if stuck else 0)
                answer = answer_of(client)
                assert (answer.end, answer.data.endswith(body)) == (
                    ("reset", False) if stuck else ("closed", True)
                )

    def test_pongs_that_are_not_read_are_not_kept(
        self, url: str, limits: Callable[..., None], small_buffers: None
    ) -> None:
        before = hostile.resident_mb()
        with hostile.flooded(url, pings_on_socket):
            time.sleep(1)
            assert hostile.resident_mb() < before + 20  # of 50 MB

    def test_the_last_ping_of_a_client_that_reads_is_answered(self, url: str) -> None:
        with socket_of(url, "/socket") as client:
            client.sendall(frame(hostile.PING, b"1") + frame(hostile.PING, b"2"))
            received_until(client, b"\x8a\x012")


def pings_on_socket(client: socket.socket, keys: hostile.Headers) -> None:
    hostile.shake(client, "/socket")
    for _ in range(400):
        client.sendall(frame(hostile.PING, bytes(125)) * 1000)


class TestSending:
    def test_headers_must_come_in_time(self, url: str, limits: Callable[..., None]) -> None:
        limits(HEAD_S=0.3)
        for sent in (b"GET /live HTTP/1.1\r\n", b"G", upgrade("/socket")[:-4]):
            answer = asked(url, sent)
            assert (answer.status, answer.end) == (408, "closed")
            assert b"headers of the request" in answer.data

    def test_headers_that_trickle_are_not_progress(self, url: str, limits: Callable[..., None]) -> None:
        limits(HEAD_S=0.4)
        stop = threading.Event()
        with opened(url) as client:
            sent = head("GET", "/live", [("X", "x" * 1000)])
            threading.Thread(target=hostile.dribble, args=(client, sent, 0.02, stop), daemon=True).start()
            answer = answer_of(client)
            stop.set()
        assert answer.status == 408
        assert answer.seconds < 5

    def test_a_connection_that_says_nothing_is_closed_without_a_word(
        self, url: str, limits: Callable[..., None]
    ) -> None:
        limits(HEAD_S=0.3)
        answer = asked(url, b"")
        assert (answer.data, answer.end) == (b"", "closed")

    @pytest.mark.parametrize(
        "start",
        [post(bytes(1000), "/echo")[:-900], chunked("/echo") + b"5\r\nhello\r\n"],
        ids=["of known length", "in chunks"],
    )
    def test_a_body_must_come_in_time(self, url: str, start: bytes, limits: Callable[..., None]) -> None:
        limits(BODY_S=0.3)
        answer = asked(url, start)
        assert (answer.status, answer.end) == (408, "closed")
        assert b"body of the request" in answer.data

    def test_a_body_that_comes_slowly_but_surely_is_read(self, url: str, limits: Callable[..., None]) -> None:
        limits(BODY_S=0.4, BODY_BYTES_PER_S=1000)
        with opened(url) as client:
            client.sendall(post(bytes(5000), "/echo", [("Connection", "close")])[:-5000])
            for _ in range(50):
                client.sendall(bytes(100))
                time.sleep(0.03)
            assert answer_of(client).status == 200

    def test_the_time_to_answer_is_not_the_clients(
        self, app: App, url: str, limits: Callable[..., None]
    ) -> None:
        limits(HEAD_S=0.2, BODY_S=0.2)
        with opened(url) as client:
            client.sendall(post(b"{}", "/wait", [("Connection", "close")]))
            time.sleep(0.8)
            app.go_on.set()
            assert answer_of(client).status == 200

    def test_connections_are_used_again_each_request_with_its_own_time(
        self, url: str, limits: Callable[..., None]
    ) -> None:
        limits(HEAD_S=0.6)
        with opened(url) as client:
            for _ in range(4):
                client.sendall(head("GET", "/live"))
                received_until(client, b"yes")
                time.sleep(0.3)

    def test_the_last_byte_of_a_client_is_not_the_end_of_its_answer(self, app: App, url: str) -> None:
        for version, early in (
            ("1.1", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"),
            ("1.0", b"HTTP/1.1 200"),
        ):
            app.go_on.clear()
            with opened(url) as client:
                client.sendall(head("GET", "/wait", version=version))
                client.shutdown(socket.SHUT_WR)
                eventually(lambda: app.running == 1)
                time.sleep(0.2)
                app.go_on.set()
                answer = answer_of(client)
            assert answer.data.startswith(early)
            assert answer.data.endswith(b"at last")
            assert answer.end == "closed"

    @pytest.mark.parametrize("leave", [socket.socket.close, hostile.reset], ids=["closes", "resets"])
    def test_a_client_that_leaves_while_it_waits_is_noticed(
        self, app: App, url: str, leave: Callable[[socket.socket], None]
    ) -> None:
        client = opened(url)
        client.sendall(head("GET", "/wait"))
        eventually(lambda: app.running == 1)
        leave(client)
        eventually(lambda: app.running == 0, 5)

    def test_a_client_that_ends_in_mid_request_is_let_go(self, url: str) -> None:
        for sent in (b"GET /live HT", post(b"{}", "/echo")[:-1], b"", upgrade("/socket")[:-4]):
            with opened(url) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert answer_of(client).end == "closed"


class TestTurns:
    @pytest.mark.parametrize(
        "flood",
        [hostile.one_byte_chunks, hostile.pipelined, hostile.long_line],
        ids=lambda flood: flood.__name__,
    )
    def test_others_are_served_while_a_request_is_parsed(self, url: str, flood: hostile.Flood) -> None:
        with hostile.flooded(url, flood, 8):
            probe = hostile.Probe(url).ask(5)
        assert probe.failed == 0
        assert probe.worst_s < 1  # 7 to 13 s before

    def test_others_are_served_while_fragments_are_joined(self, url: str) -> None:
        def fragments(client: socket.socket, keys: hostile.Headers) -> None:
            hostile.shake(client, "/socket")
            client.sendall(frame(hostile.TEXT, last=False))
            while True:
                client.sendall(frame(hostile.CONTINUATION, last=False) * 10_000)

        with hostile.flooded(url, fragments, 4):
            probe = hostile.Probe(url).ask(5)
        assert probe.worst_s < 1  # 14 s before

    def test_a_body_in_chunks_of_a_byte_arrives_whole(self, url: str) -> None:
        body = bytes(range(256)) * 20
        parts = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        answer = asked(url, chunked("/echo", [("Connection", "close")]) + parts + b"0\r\n\r\n", 30)
        assert answer.data.endswith(b"\r\n\r\n" + body)

    def test_a_message_in_fragments_of_a_byte_arrives_whole(self, url: str) -> None:
        text = "Grüße, " * 100
        data = text.encode()
        with socket_of(url, "/socket") as client:
            parts = [frame(hostile.TEXT, data[:1], last=False)]
            parts += [
                frame(hostile.CONTINUATION, data[at : at + 1], last=False) for at in range(1, len(data))
            ]
            client.sendall(b"".join([*parts, frame(hostile.CONTINUATION)]))
            client.sendall(frame(hostile.TEXT, b"and the next"))
            got = received_until(client, b"and the next")
        assert data in got

    def test_pipelined_requests_are_all_answered(self, url: str) -> None:
        with opened(url) as client:
            client.sendall(head("GET", "/live") * 300)
            client.shutdown(socket.SHUT_WR)
            answer = answer_of(client, 30)
        assert answer.data.count(b"HTTP/1.1 200") == 300
        assert answer.end == "closed"


class TestRefusals:
    """Answered, then closed; what is still sent is not read as requests."""

    @pytest.mark.parametrize(("sent", "status"), REQUESTS.values(), ids=REQUESTS)
    def test_a_request_that_cannot_be_served_is_answered_and_closed(
        self, url: str, sent: bytes, status: int
    ) -> None:
        answer = asked(url, sent)
        assert (answer.status, answer.end) == (status, "closed")
        assert b"connection: close" in answer.data.lower()
        assert answer.seconds < 4

    def test_the_rest_of_a_refused_request_is_never_read_as_another(self, app: App, url: str) -> None:
        hidden = head("GET", "/stream")
        answer = asked(url, post(b"x" * 100, "/nowhere")[:-100] + hidden)
        assert answer.data.count(b"HTTP/1.1") == 1
        assert app.running == 0

    def test_the_answer_is_seen_by_a_client_that_is_still_sending(self, url: str) -> None:
        sent = chunked("/nowhere") + b"10000\r\n" + bytes(65536) + b"\r\n"
        answer = asked(url, sent + (b"10000\r\n" + bytes(65536) + b"\r\n") * 100)
        assert (answer.status, answer.end) == (404, "closed")

    def test_a_refused_client_that_goes_on_for_ever_is_cut_off(
        self, url: str, limits: Callable[..., None]
    ) -> None:
        limits(LINGER_S=0.3)
        with opened(url) as client:
            client.sendall(chunked("/nowhere"))
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                for _ in range(1000):
                    client.sendall(b"1\r\n \r\n")
                    time.sleep(0.01)

    def test_a_request_with_a_small_body_leaves_the_connection_open(self, url: str) -> None:
        with httpx.Client(base_url=url, trust_env=False) as client:
            for _ in range(3):
                answer = client.post("/nowhere", content=b"x" * 500)
                assert answer.status_code == 404
                assert client.post("/echo", content=b"x" * 5000).content == b"x" * 5000

    def test_a_client_that_waits_to_be_told_sends_its_body(self, url: str) -> None:
        with opened(url) as client:
            sent = post(b"hello", "/echo", [("Expect", "100-continue"), ("Connection", "close")])
            client.sendall(sent[:-5])
            received_until(client, b"\r\n\r\n")
            client.sendall(sent[-5:])
            assert answer_of(client).data.endswith(b"hello")

    def test_a_client_that_waits_to_be_told_learns_of_a_refusal_first(self, url: str) -> None:
        answer = asked(url, post(b"hello", "/nowhere", [("Expect", "100-continue")])[:-5])
        assert (answer.status, answer.end) == (404, "closed")


class TestSockets:
    @pytest.mark.parametrize(
        "headers",
        [
            [("Cookie", "x" * 9000)],
            [("Cookie", "; ".join(f"session-{n}={'x' * 300}" for n in range(100)))],
            [(f"X-Header-{n}", "x") for n in range(200)],
        ],
        ids=["a cookie of 9 KB", "100 cookies", "200 headers"],
    )
    def test_what_a_browser_sends_is_accepted(
        self, app: App, url: str, headers: list[tuple[str, str]]
    ) -> None:
        with opened(url) as client:
            client.sendall(upgrade("/socket", headers))
            assert received_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
            client.sendall(frame(hostile.TEXT, b"hello"))
            received_until(client, b"hello")
        assert app.headers[headers[0][0].lower()] == headers[0][1]
        assert asked(url, head("GET", "/live", [*headers, ("Connection", "close")])).status == 200

    @pytest.mark.parametrize(("sent", "status"), HANDSHAKES.values(), ids=HANDSHAKES)
    def test_a_handshake_that_is_wrong_is_answered_and_closed(
        self, url: str, sent: bytes, status: int
    ) -> None:
        answer = asked(url, sent)
        assert (answer.status, answer.end) == (status, "closed")
        assert answer.seconds < 4

    @pytest.mark.parametrize(("sent", "code"), wire.WRONG_FRAMES.values(), ids=wire.WRONG_FRAMES)
    def test_a_wrong_frame_is_answered_with_its_code_and_closed(
        self, url: str, sent: bytes, code: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket_of(url, "/socket") as client:
            with contextlib.suppress(OSError):
                client.sendall(sent)
            answer = answer_of(client)
        assert (answer.close_code, answer.end) == (code, "closed")
        assert answer.seconds < 8
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_a_client_that_does_not_wait_for_the_handshakes_answer_loses_nothing(self, url: str) -> None:
        with opened(url) as client:
            client.sendall(upgrade("/socket") + frame(hostile.TEXT, b"hello"))
            received_until(client, b"hello")

    def test_a_client_that_is_silent_after_its_close_is_let_go(
        self, url: str, limits: Callable[..., None]
    ) -> None:
        with socket_of(url, "/socket") as client:
            client.sendall(frame(hostile.CLOSE, b"\x03\xe8"))
            assert answer_of(client).end == "closed"


class TestDescriptors:
    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """A server for four connections."""
        monkeypatch.setattr(connections, "most_connections", lambda: 4)
        app = App()
        with served(app.asgi) as url:
            yield url
            app.go_on.set()

    def test_who_has_asked_for_nothing_makes_room(self, small: str) -> None:
        silent = [opened(small) for _ in range(12)]
        assert hostile.Probe(small).ask(5).failed == 0
        assert sum(answer_of(client, 0.05).end != "open" for client in silent) >= 8
        for client in silent:
            client.close()

    def test_who_uses_a_connection_keeps_it(self, small: str) -> None:
        silent = []
        with opened(small) as kept:
            for _ in range(6):
                kept.sendall(head("GET", "/live"))
                received_until(kept, b"yes")
                silent += [opened(small) for _ in range(3)]
        for client in silent:
            client.close()

    def test_who_comes_when_all_are_at_work_is_told_so(self, small: str) -> None:
        busy = [opened(small) for _ in range(4)]
        for client in busy:
            client.sendall(head("GET", "/wait"))
        time.sleep(0.2)
        answer = asked(small, head("GET", "/live"))
        assert (answer.status, answer.end) == (503, "closed")
        assert re.search(rb"(?i)\r\nretry-after: [1-9]\d*\r\n", answer.data)
        assert re.search(rb"(?i)\r\nretry-after-ms: [1-9]\d*\r\n", answer.data)
        busy.pop().close()
        eventually(lambda: asked(small, head("GET", "/live", [("Connection", "close")])).status == 200)
        for client in busy:
            client.close()

    def test_half_of_the_descriptors_are_for_clients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for limit, most in ((1024, 480), (160, 48), (64, 8), (1 << 20, connections.MAX_CONNECTIONS)):
            monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
            assert connections.most_connections() == most

    def test_without_descriptors_the_log_stays_short_and_serving_resumes(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Clients and server share this process: the clients' ends are opened before the limit falls."""
        waiting = [socket.socket() for _ in range(40)]
        held: list[int] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            used = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.dup(0))
            at = url.removeprefix("http://").split(":")
            for client in waiting:
                client.connect((at[0], int(at[1])))
            time.sleep(1.5)
            failed = [r for r in caplog.records if r.name in ("orpheus.http.process", "asyncio")]
            assert 1 <= len(failed) <= 3
            assert "ulimit" in failed[0].message
        finally:
            for number in held:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in waiting:
                client.close()
        eventually(lambda: asked(url, head("GET", "/live", [("Connection", "close")])).status == 200)


def test_a_connection_that_breaks_its_parser_is_dropped_and_others_live(
    app: App, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: HttpProtocol, data: bytes) -> None:
        raise ZeroDivisionError

    with opened(url) as client:
        monkeypatch.setattr(HttpProtocol, "data_received", fails)
        client.sendall(head("GET", "/live"))
        assert answer_of(client).end in ("closed", "reset")
        monkeypatch.undo()
    assert hostile.Probe(url).ask(1).failed == 0
    assert "could not be parsed" in caplog.text


def test_nothing_is_left_of_connections_that_have_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: weakref.WeakSet[Peer] = weakref.WeakSet()
    init = Peer.__init__

    def noted(self: Peer, *arguments: Any) -> None:
        init(self, *arguments)
        made.add(self)

    monkeypatch.setattr(Peer, "__init__", noted)
    hostile.Probe(url).ask(3)
    with socket_of(url, "/socket") as client:
        assert len(made) >= 1
        client.sendall(frame(hostile.CLOSE, b"\x03\xe8"))
        answer_of(client)
    asked(url, b"\x16 is TLS")
    eventually(lambda: gc.collect() >= 0 and not made)
