"""httpx over our own connections: what is told apart, what is kept, what a server can make us hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpcore
import httpx
import pytest

from orpheus.http.tcp import MAX_UNREAD_BYTES, _Backend, direct_transport

pytestmark = pytest.mark.anyio

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The URL of a server that calls `answer` after each request's head, until the connection ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def client(read_s: float = 5.0, trusted: Path | None = None) -> httpx.AsyncClient:
    transport = direct_transport(httpx.Limits(max_connections=None))
    if trusted is not None:
        transport._pool._ssl_context = ssl.create_default_context(cafile=str(trusted))
    return httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(read_s), trust_env=False)


async def test_requests_one_after_another_share_a_connection() -> None:
    peers: list[object] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        writer.write(OK + b"content-length: 5\r\n\r\nhello")

    async with serving(answer) as url, client() as asking:
        assert [(await asking.get(url)).text for _ in range(3)] == ["hello"] * 3
    assert len(set(peers)) == 1


async def test_a_connection_that_the_server_has_closed_is_not_asked_again() -> None:
    answered = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        answered += 1
        writer.write(OK + b"content-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with serving(answer) as url, client() as asking:
        for _ in range(3):
            assert (await asking.get(url)).text == "ok"
            await asyncio.sleep(0.05)  # until it is seen to be closed
    assert answered == 3


async def test_what_a_server_streams_arrives_as_it_is_sent() -> None:
    heard = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"3\r\nabc\r\n")
            heard.clear()
            await heard.wait()  # the client had it before more was sent
        writer.write(b"0\r\n\r\n")

    parts = []
    async with serving(answer) as url, client() as asking, asking.stream("GET", url) as response:
        async for part in response.aiter_raw():
            parts.append(part)
            heard.set()
    assert parts == [b"abc"] * 3


async def test_what_is_not_read_is_left_with_the_server() -> None:
    """It may send without end: a client that waits must not keep it all."""
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(OK + b"content-length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            writer.write(bytes(100_000))
            sent += 100_000
            await writer.drain()

    async with serving(answer) as url, client() as asking, asking.stream("GET", url) as response:
        await asyncio.sleep(0.5)
        stream = response.extensions["network_stream"]
        assert len(stream._received) < MAX_UNREAD_BYTES + 1_000_000
        assert sent < 50_000_000
        received = 0
        async for part in response.aiter_raw():
            received += len(part)
    assert received == 100_000_000


async def test_each_way_to_fail_has_its_own_error_of_httpx() -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 100\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async def is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client leaves

    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with client(read_s=0.2) as asking:
        for answer in (breaks_off, resets, hangs_up):
            async with serving(answer) as url:
                with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                    await asking.get(url)
        async with serving(is_silent) as url:
            with pytest.raises(httpx.ReadTimeout):
                await asking.get(url)
    async with client() as asking:
        with pytest.raises(httpx.ConnectError):
            await asking.get(url)  # nobody listens any more
        with pytest.raises(httpx.ConnectError):
            await asking.get("http://no-such-host.invalid")


async def test_a_server_learns_at_once_that_its_client_is_cancelled() -> None:
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 100\r\n\r\nhalf")
        assert await reader.read() == b""
        left.set()

    async with serving(answer) as url, client() as asking:
        task = asyncio.create_task(asking.get(url))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait_for(left.wait(), 2)


async def test_whenever_a_client_gives_up_connecting_no_connection_stays_open() -> None:
    open_connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        with contextlib.suppress(OSError):
            await reader.read()
        open_connections -= 1
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    kept = []  # what a collection of garbage would close
    for number in range(200):
        connecting = _Backend().connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], 5)
        kept.append(asyncio.create_task(connecting))
        give_up_s = time.monotonic() + number * 10e-6
        while time.monotonic() < give_up_s:  # noqa: ASYNC110 - so that it is between any two steps
            await asyncio.sleep(0)
        kept[-1].cancel()
        (stream,) = await asyncio.gather(kept[-1], return_exceptions=True)
        if isinstance(stream, httpcore.AsyncNetworkStream):
            await stream.aclose()
    await asyncio.sleep(0.1)
    assert open_connections == 0
    server.close()


async def test_the_next_address_of_a_host_is_tried_if_the_first_refuses_or_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 2\r\n\r\nok")

    with socket.socket() as full:  # whose queue has no room: it neither accepts nor refuses
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            async with serving(answer) as url:
                for first in (("127.0.0.2", 1), full.getsockname()):
                    addresses = [first, ("127.0.0.1", httpx.URL(url).port)]
                    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
                    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: list(found))
                    async with client() as asking:
                        assert (await asking.get("http://two-addresses")).text == "ok"


async def test_a_name_that_no_host_can_have_cannot_be_connected_to() -> None:
    async with client() as asking:
        with pytest.raises(httpx.ConnectError):
            await asking.get(f"http://{'x' * 70}.example")


async def test_what_came_before_encryption_is_not_taken_for_an_answer() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 4\r\n\r\nevil")
        await reader.read()  # until the client leaves
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    stream = await _Backend().connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1])
    await asyncio.sleep(0.05)
    with pytest.raises(httpcore.ConnectError, match="before the connection was encrypted"):
        await stream.start_tls(ssl.create_default_context(), "localhost", 1)
    await asyncio.sleep(0.05)
    server.close()


async def test_over_tls_the_same_is_sent_and_only_to_whom_is_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    await asyncio.to_thread(
        subprocess.run,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}",
        shell=True,
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    size = 3 * MAX_UNREAD_BYTES  # so that reading is paused, too

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: %d\r\n\r\n" % size + bytes(size))
        await writer.drain()

    async with serving(answer, tls) as url:
        async with client(trusted=certificate) as asking:
            for _ in range(2):
                async with asking.stream("GET", url) as response:
                    await asyncio.sleep(0.1)
                    assert len(await response.aread()) == size
        async with client() as asking:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await asking.get(url)
