"""`orpheus relay` between scripted servers and clients: what one side says, the other hears."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket as sockets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request as Handshake
from websockets.http11 import Response as Refusal

from orpheus.errors import SetupError
from orpheus.ops.relay import create_app, read_headers
from tests.support.live import clean_environment, free_port, served
from tests.support.scripted import Script, audio, scripted, tell, words_until_eos
from tests.support.unmute import Orchestrator, SessionKilled, at_pace
from tests.support.waiting import until, until_still

pytestmark = pytest.mark.anyio
WORDS = ["The", "sea", "is", "calm", "today."]
NOISE = os.urandom(65536)  # which no compression makes smaller
KEYS = {"modal-key": "wk-1", "modal-secret": "ws-2"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@contextlib.contextmanager
def relay(url: str, connect_s: float = 2.0) -> Iterator[str]:
    """The ws:// address of a relay to `url`."""
    app = create_app(url.replace("ws", "http", 1), KEYS, connect_s=connect_s)
    with served(app) as address:
        yield address.replace("http", "ws", 1)


@contextlib.asynccontextmanager
async def relayed(script: Script, **options: Any) -> AsyncIterator[str]:
    async with scripted(script, **options) as url:
        with relay(url) as address:
            yield address


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


async def speaking(socket: ServerConnection) -> None:
    await tell(socket, "Ready")
    for index, word in enumerate(await words_until_eos(socket)):
        await tell(socket, "Text", text=word, start_s=index * 0.1, stop_s=index * 0.1 + 0.1)
    await audio(socket, 0.8)


def dial(address: str, path: str = "/any", **options: Any) -> connect:
    return connect(address + path, proxy=None, **options)


async def test_an_unmodified_unmute_speaks_through_it() -> None:
    async with relayed(speaking) as address:
        turn = await Orchestrator(address, "unmute-prod-website/p329_022.wav").turn(at_pace(WORDS))
    assert (turn.words, turn.close_code, turn.player.underruns) == (WORDS, 1000, 0)
    assert turn.played_s == pytest.approx(0.8)


async def test_text_and_binary_frames_keep_their_type() -> None:
    async with relayed(echo) as address, dial(address) as socket:
        for message in ("text", "käse", b"\0\xff", b"", "", b"x" * (1 << 20)):
            await socket.send(message)
            assert await socket.recv() == message


async def test_path_query_and_headers_arrive_and_ours_win() -> None:
    asked: list[Handshake] = []

    def note(socket: ServerConnection, request: Handshake) -> None:
        asked.append(request)

    path = "/api/tts_streaming?format=PcmMessagePack&voice=unmute-prod-website%2Fp329_022.wav&cfg_alpha=1.5"
    headers = {"kyutai-api-key": "public_token", "Modal-Key": "wrong"}
    async with relayed(echo, process_request=note) as address:
        async with dial(address, path, additional_headers=headers):
            pass
        async with dial(address, "/a%2Fb/%C3%BC?q=%C3%BC"):
            pass
    assert [request.path for request in asked] == [path, "/a%2Fb/%C3%BC?q=%C3%BC"]
    got = asked[0].headers
    assert (got["kyutai-api-key"], got.get_all("modal-key"), got["modal-secret"]) == (
        "public_token",
        ["wk-1"],
        "ws-2",
    )
    assert "Sec-WebSocket-Extensions" not in got
    assert len(got.get_all("Host")) == len(got.get_all("Sec-WebSocket-Key")) == 1


async def test_a_subprotocol_is_agreed_with_the_server() -> None:
    async with relayed(echo, subprotocols=["b"]) as address, dial(address, subprotocols=["a", "b"]) as socket:
        assert socket.subprotocol == "b"


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1008, "no voice 'bob'"), (1013, "voll ä"), (4000, "x")]
)
async def test_closes_pass_both_ways(code: int, reason: str) -> None:
    seen: list[tuple[int | None, str | None]] = []

    async def script(socket: ServerConnection) -> None:
        if await socket.recv() == "close":
            await socket.close(code, reason)
        else:
            await socket.wait_closed()
            seen.append((socket.close_code, socket.close_reason))

    async with relayed(script) as address:
        async with dial(address) as socket:
            await socket.send("close")
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (code, reason)
        async with dial(address) as socket:
            await socket.send("stay")
            started = time.monotonic()
            await socket.close(code, reason)
            assert time.monotonic() - started < 0.5, "answered at once"
        await until(lambda: seen == [(code, reason)])


async def test_a_client_that_disconnects_is_disconnected_at_the_server() -> None:
    """While the server is in the middle of sending, too."""
    left = []

    async def script(socket: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await socket.send(b"x" * 4096)
                await asyncio.sleep(0)
        left.append(socket)

    async with relayed(script) as address:
        socket = await dial(address)
        await socket.recv()
        socket.transport.abort()
        await until(lambda: bool(left), 3)


async def test_a_broken_connection_is_not_a_clean_close() -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.send("half")
        socket.transport.abort()

    async with relayed(script) as address, dial(address) as socket:
        assert await socket.recv() == "half"
        await socket.wait_closed()
        assert socket.close_code == 1014


async def test_a_broken_connection_leaves_the_session_of_unmute_alive() -> None:
    """Neither the words still coming nor what it has to play are cut off."""

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await socket.recv()
        await audio(socket, 0.8)
        socket.transport.abort()

    async with relayed(script) as address:
        turn = await Orchestrator(address).turn(at_pace(WORDS * 4))
    assert (turn.close_code, turn.dropped_s) == (1000, 0)
    assert turn.released[-1][1]["type"] in ("Audio", "Text")
    assert any(message["type"] == "Error" for _, message in turn.received)


async def test_an_absent_server_is_reported_as_unmute_expects() -> None:
    with relay(f"http://127.0.0.1:{free_port()}") as address:
        with pytest.raises(SessionKilled, match="Too many people"):
            await Orchestrator(address).find()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await dial(address)
    assert refused.value.response.status_code == 503
    assert "cannot be reached" in refused.value.response.body.decode()


async def test_a_refusal_keeps_its_status_and_words() -> None:
    def refuse(socket: ServerConnection, request: Handshake) -> Refusal:
        return socket.respond(HTTPStatus.UNAUTHORIZED, "missing credentials for proxy authorization\n")

    async with relayed(echo, process_request=refuse) as address:
        with pytest.raises(SessionKilled, match="Too many people"):
            await Orchestrator(address).find()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await dial(address)
    assert refused.value.response.status_code == 401
    assert b"missing credentials" in refused.value.response.body


async def test_connecting_to_a_server_that_does_not_answer_times_out() -> None:
    with sockets.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with relay(f"http://127.0.0.1:{silent.getsockname()[1]}", connect_s=0.3) as address:
            started = time.monotonic()
            with pytest.raises(websockets.InvalidStatus) as refused:
                await dial(address)
            assert refused.value.response.status_code == 503
            assert time.monotonic() - started < 3


async def test_a_client_that_leaves_while_connecting_leaves_no_connection_open() -> None:
    with sockets.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen()
        with relay(f"http://127.0.0.1:{slow.getsockname()[1]}", connect_s=30) as address:
            dialling = asyncio.create_task(_impatient(address))
            line, _ = await asyncio.get_running_loop().run_in_executor(None, slow.accept)
            await dialling
            line.settimeout(3)
            with line:
                while await asyncio.to_thread(line.recv, 4096):  # the request, then the end
                    pass


async def _impatient(address: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await dial(address)


@pytest.mark.parametrize("towards", ["server", "client"])
async def test_messages_over_one_mebibyte_are_refused(towards: str) -> None:
    codes = []

    async def script(socket: ServerConnection) -> None:
        if towards == "client":
            await socket.send(b"x" * ((1 << 20) + 1))
        await socket.wait_closed()
        codes.append(socket.close_code)

    async with relayed(script) as address, dial(address, max_size=None) as socket:
        if towards == "server":
            await socket.send(b"x" * ((1 << 20) + 1))
        await socket.wait_closed()
        assert socket.close_code == 1009
        await until(lambda: codes == [1009])


async def test_a_client_that_does_not_read_holds_the_server_back() -> None:
    sent, enough = 0, asyncio.Event()

    async def script(socket: ServerConnection) -> None:
        nonlocal sent
        while not enough.is_set():
            await socket.send(NOISE)
            sent += len(NOISE)

    async with relayed(script) as address:
        socket = await dial(address, max_queue=1)
        await until_still(lambda: sent)
        assert 0 < sent < 32 << 20
        enough.set()
        assert sum([len(message) async for message in socket]) == sent
        assert socket.close_code == 1000


async def test_a_server_that_does_not_read_holds_the_client_back() -> None:
    sent, go_on, received = 0, asyncio.Event(), 0

    async def script(socket: ServerConnection) -> None:
        nonlocal received
        await go_on.wait()
        async for message in socket:
            received += len(message)

    async with relayed(script, max_queue=1) as address, dial(address) as socket:
        async with asyncio.timeout(10):
            sending = asyncio.create_task(socket.send(NOISE))
            while (await asyncio.wait([sending], timeout=0.5))[0]:
                sent += len(NOISE)
                sending = asyncio.create_task(socket.send(NOISE))
        assert 0 < sent < 32 << 20
        go_on.set()
        await sending
        await until(lambda: received == sent + len(NOISE))


async def test_a_handshake_that_is_redirected_takes_no_keys_along() -> None:
    seen: list[str] = []

    def note(socket: ServerConnection, request: Handshake) -> None:
        seen.append(str(request.headers))

    async with scripted(echo, process_request=note) as elsewhere:

        def redirect(socket: ServerConnection, request: Handshake) -> Refusal:
            answer = socket.respond(HTTPStatus.TEMPORARY_REDIRECT, "over there\n")
            answer.headers["Location"] = elsewhere + request.path
            return answer

        async with relayed(echo, process_request=redirect) as address:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await dial(address)
    assert refused.value.response.status_code == 307
    assert seen == []


async def test_a_web_page_cannot_use_our_keys() -> None:
    async with relayed(echo) as address:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await dial(address, origin="https://elsewhere.example")
        assert refused.value.response.status_code == 403
        async with httpx.AsyncClient(trust_env=False) as page:
            answer = await page.get(address.replace("ws", "http", 1), headers={"Origin": "null"})
        assert answer.status_code == 403


async def test_another_host_cannot_be_named_by_the_path() -> None:
    async with relayed(echo) as address:
        host, port = address.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET %2F@elsewhere.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


class Web:
    """An HTTP server that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.left = False
        self.app = Starlette(
            routes=[
                Route("/v1/echo", self._echo, methods=["POST", "GET"]),
                Route("/v1/stream", self._stream),
                Route("/v1/broken", self._broken),
                Route("/api/build_info", self._slow),
            ]
        )

    async def _echo(self, request: Request) -> Response:
        body = await request.body()
        self.asked.append((str(request.url.query), dict(request.headers), body))
        return JSONResponse({"error": "full"}, 429, headers={"Retry-After": "3", "x-request-id": "7"})

    async def _stream(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 100
                    await asyncio.sleep(0.02)
            finally:
                self.left = True

        return StreamingResponse(chunks(), media_type="audio/wav")

    async def _broken(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise ConnectionResetError("told to break")

        return StreamingResponse(chunks())

    async def _slow(self, request: Request) -> Response:
        await asyncio.sleep(2.5)
        return JSONResponse({})


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[Web, httpx.Client]]:
    server = Web()
    with served(server.app) as url, relay(url) as address, httpx.Client(trust_env=False) as client:
        client.base_url = address.replace("ws", "http", 1)
        yield server, client


def test_http_passes_with_its_status_and_headers(web: tuple[Web, httpx.Client]) -> None:
    server, client = web
    answer = client.post("/v1/echo?a=%2F", content=b"{}", headers={"x-mine": "1", "Modal-Key": "wrong"})
    assert (answer.status_code, answer.json()) == (429, {"error": "full"})
    assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("3", "7")
    query, headers, body = server.asked[-1]
    assert (query, body) == ("a=%2F", b"{}")
    assert (headers["x-mine"], headers["modal-key"], headers["modal-secret"]) == ("1", "wk-1", "ws-2")


def test_http_streams_and_a_client_that_leaves_ends_it(web: tuple[Web, httpx.Client]) -> None:
    server, client = web
    with client.stream("GET", "/v1/stream") as answer:
        assert answer.headers["content-type"] == "audio/wav"
        assert next(answer.iter_raw())
    deadline = time.monotonic() + 3
    while not server.left and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.left


def test_a_response_that_breaks_off_is_not_complete(web: tuple[Web, httpx.Client]) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        web[1].get("/v1/broken")


def test_build_info_is_answered_before_unmute_gives_up(web: tuple[Web, httpx.Client]) -> None:
    started = time.monotonic()
    answer = web[1].get("/api/build_info")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert time.monotonic() - started < 2


def test_a_body_that_is_too_long_is_not_kept(web: tuple[Web, httpx.Client]) -> None:
    assert web[1].post("/v1/echo", content=b"x" * ((1 << 20) + 1)).status_code == 413


def test_http_to_an_absent_server_is_503_and_to_another_kind_502() -> None:
    with relay(f"http://127.0.0.1:{free_port()}") as address:
        answer = httpx.get(address.replace("ws", "http", 1) + "/api/build_info", trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    with sockets.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with relay(f"http://127.0.0.1:{other.getsockname()[1]}") as address:
            answers = []

            def ask() -> None:
                answers.append(httpx.get(address.replace("ws", "http", 1), trust_env=False))

            asking = threading.Thread(target=ask)
            asking.start()
            line, _ = other.accept()
            line.sendall(b"220 mail.example ESMTP\r\n")
            line.close()
            asking.join()
        assert answers[0].status_code == 502


@pytest.mark.parametrize("line", ["", "Name", "Name:", ": x", "Na me: x", "N: ä", "N: a\r\nM: b"])
def test_an_invalid_header_is_reported_without_its_value(line: str) -> None:
    with pytest.raises(SetupError, match="Name: value"):
        read_headers([line])


@pytest.mark.parametrize("url", ["x.modal.run", "ws://x", "https://", "https://x?y=1", ""])
def test_an_invalid_address_is_reported(url: str) -> None:
    with pytest.raises(SetupError, match="https://HOST"):
        create_app(url, {}, connect_s=1)


@contextlib.contextmanager
def program(log: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`orpheus relay` as a user starts it."""
    with log.open("w") as output:
        command = [sys.executable, "-m", "orpheus", "relay", *options]
        process = subprocess.Popen(
            command, env=clean_environment(**environment), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


async def test_it_runs_as_a_program(tmp_path: Path) -> None:
    log, port = tmp_path / "relay.log", free_port()
    options = ["--port", str(port), "--header", "X-Mine: wk-1"]
    async with scripted(speaking) as url:
        environment = {"ORPHEUS_FASTAPI_URL": url.replace("ws", "http", 1), "no_proxy": "*"}
        with program(log, *options, **environment) as process:
            await until(lambda: f"ws://127.0.0.1:{port} relays to http://" in log.read_text(), 20)
            turn = await Orchestrator(f"ws://127.0.0.1:{port}").turn(at_pace(WORDS))
            assert turn.words == WORDS
    assert process.returncode == -signal.SIGTERM, "at once, and as it was told"
    assert "wk-1" not in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of a server called localhost, and its key; made by openssl."""
    path = tmp_path / "localhost.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command, "-keyout", str(path), "-out", str(path) + ".crt"], check=True, capture_output=True
    )
    path.write_text(path.read_text() + path.with_name("localhost.pem.crt").read_text())
    return path


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
async def test_the_tls_handshake_names_the_server(certificate: Path, tmp_path: Path) -> None:
    """Whose certificate and routing are by name, which is what the orchestrator cannot do."""
    log, port = tmp_path / "relay.log", free_port()
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda line, name, of: names.append(name)

    def build_info(socket: ServerConnection, request: Handshake) -> Refusal | None:
        names.append(request.headers["Host"].split(":")[0])
        return socket.respond(HTTPStatus.OK, "{}") if request.path == "/api/build_info" else None

    async with scripted(speaking, ssl=context, process_request=build_info) as url:
        secure = url.replace("ws://127.0.0.1", "https://localhost")
        environment = {"ORPHEUS_FASTAPI_URL": secure, "SSL_CERT_FILE": str(certificate), "no_proxy": "*"}
        with program(log, "--port", str(port), **environment):
            await until(lambda: "ws://127.0.0.1" in log.read_text(), 20)
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{port}/api/build_info")
            assert (answer.status_code, answer.text) == (200, "{}")
            turn = await Orchestrator(f"ws://127.0.0.1:{port}").turn(at_pace(WORDS))
            assert (turn.words, turn.close_code) == (WORDS, 1000)
    assert names == ["localhost"] * 4
