"""Clients that take a place in tier 2 and give nothing back, or send what costs more than it is worth."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from benchmarks.faults import hostile
from benchmarks.faults.hostile import (
    answer_of,
    asked,
    chunked,
    frame,
    head,
    message,
    opened,
    post,
    received_until,
)
from orpheus.http import connections
from tests.support.live import keep_little_unread
from tests.support.speech import PATH, SAMPLES, ask
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
LONG = {"response_format": "pcm", "speed": 0.25, "sample_rate": 48_000}  # eight times the bytes

COMPLETE = b"\x88\x02\x03\xe8"  # a close frame with code 1000


def url_of(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


@pytest.fixture
def stalls_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_S", 0.8)
    monkeypatch.setattr(connections, "CHECK_S", 0.02)
    keep_little_unread(monkeypatch)


@pytest.mark.parametrize("more", [{}, {"stream_format": "sse"}], ids=["audio", "events"])
def test_readers_that_stop_give_their_places_back(
    speech: Start, upstream: Upstream, stalls_soon: None, more: dict[str, str]
) -> None:
    upstream.events = ["".join(whole(60)), *whole(600)]
    client = speech(max_requests=2)
    stuck = [opened(url_of(client), receive_bytes=4096) for _ in range(2)]
    for reader in stuck:
        reader.sendall(post(ask(**LONG, **more)))
    eventually(lambda: len(upstream.requests) == 2)
    assert client.post(PATH, json=ask()).status_code == 429
    upstream.events = whole()
    eventually(lambda: client.post(PATH, json=ask()).status_code == 200)
    assert [answer_of(reader).end for reader in stuck] == ["reset", "reset"]
    for reader in stuck:
        reader.close()


def test_a_reader_as_slow_as_speech_is_not_cut_off(
    speech: Start, upstream: Upstream, stalls_soon: None
) -> None:
    upstream.events = whole(12)
    with opened(url_of(speech()), receive_bytes=4096) as reader:
        reader.sendall(post(ask(response_format="pcm"), headers=[("Connection", "close")]))
        got = b""
        while data := reader.recv(2048):
            got += data
            time.sleep(0.04)
    assert got.endswith(b"0\r\n\r\n")
    assert len(got) > 12 * 2048 * 2


def test_a_client_that_has_sent_its_last_byte_gets_its_audio(speech: Start, upstream: Upstream) -> None:
    upstream.pause_s = 0.02
    with opened(url_of(speech())) as client:
        client.sendall(post(ask(response_format="pcm")))
        client.shutdown(socket.SHUT_WR)
        answer = answer_of(client)
    assert answer.end == "closed"
    assert answer.data.endswith(b"0\r\n\r\n")
    assert len(answer.data) > 2 * SAMPLES


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (chunked(PATH) + b"1\r\n \r\n" * 100_000, 401),
        (post(b"x" * 1000)[:-1000], 401),
        (chunked("/v1/nowhere", [("x-api-key", "k")]) + b"1\r\n \r\n" * 100_000, 404),
        (head("DELETE", "/v1/voices", [("x-api-key", "k"), ("Content-Length", "9999999")]), 404),
        (chunked(PATH, [("x-api-key", "k")]) + b"100000\r\n" + bytes(1 << 20) + b"\r\n1\r\nx", 413),
    ],
    ids=["no key", "no key, no body", "unknown", "unknown, no body", "too long"],
)
def test_a_refused_request_is_answered_before_its_body_and_closed(
    speech: Start, sent: bytes, status: int
) -> None:
    answer = asked(url_of(speech(api_keys="k", keep=True)), sent)
    assert (answer.status, answer.end) == (status, "closed")
    assert json.loads(answer.data.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.parametrize("flood", hostile.FLOODS.values(), ids=hostile.FLOODS)
def test_no_flood_keeps_others_waiting(speech: Start, flood: hostile.Flood) -> None:
    client = speech(keep=True, page=False)
    url = url_of(client)
    with hostile.flooded(url, flood, 4):
        probe = hostile.Probe(url).ask(10)
    assert probe.failed == 0
    assert probe.worst_s < 1  # several seconds before, for most of them

    seen: list[bool] = []

    def is_over() -> bool:
        seen.append("orpheus_speech_active 0.0" in client.get("/metrics").text)
        time.sleep(0.02)
        return len(seen) > 10 and all(seen[-10:])

    eventually(is_over)  # nothing of it is spoken to nobody, nor heard by the next test


def test_messages_of_a_byte_are_all_heard(speech: Start, upstream: Upstream) -> None:
    text = "The boat drifted slowly down the river."
    with hostile.socket_of(url_of(speech())) as client:
        words = b"".join(message(type="input.text", text=character) for character in text)
        client.sendall(words + message(type="input.done") + message(type="session.close"))
        received_until(client, COMPLETE)
    assert text in upstream.requests[0]["prompt"]


def test_text_in_fragments_of_a_byte_is_spoken(speech: Start, upstream: Upstream) -> None:
    data = "Grüße aus München.".encode()
    parts = [frame(hostile.CONTINUATION, data[at : at + 1], last=False) for at in range(1, len(data))]
    with opened(url_of(speech())) as client:
        hostile.shake(client, "/ws")
        client.sendall(frame(hostile.TEXT, data[:1], last=False) + b"".join(parts))
        client.sendall(frame(hostile.CONTINUATION))
        received_until(client, COMPLETE)
    assert "Grüße aus München." in upstream.requests[0]["prompt"]


def test_a_handshake_with_a_browsers_cookies_is_accepted(speech: Start) -> None:
    cookies = "; ".join(f"session-{number}={'x' * 400}" for number in range(30))
    with opened(url_of(speech())) as client:
        client.sendall(hostile.upgrade(headers=[("Cookie", cookies)]))
        assert received_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
