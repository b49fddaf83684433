"""Clients that attack a pair: what stops, dawdles, floods, leaves, or sends what is wrong, on both tiers."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.faults import bodies, hostile, wire
from benchmarks.faults.hostile import (
    SPEECH,
    Flood,
    answer_of,
    asked,
    chunked,
    frame,
    head,
    message,
    opened,
    post,
)
from benchmarks.faults.stage import KEYED, Case, Stage
from orpheus.http.connections import BODY_S, HEAD_S, LINGER_S, STALL_S
from orpheus.server.sockets.connection import FIRST_TEXT_S

SLACK_S = 8.0  # beyond a stated limit: the server looks every half second, and this machine is shared
KEEP_ALIVE_S = 5.0  # uvicorn's
COMPLETIONS = "/v1/completions"
CLOSE = ("Connection", "close")
SESSION, PLAIN, UNMUTE = hostile.SOCKET, "/ws", "/api/tts_streaming"
SOCKETS = (SESSION, PLAIN, UNMUTE)
SENTENCE = "The old harbour was closed in the spring, and nobody has used it since. "
LONG = SENTENCE * 8
FULL_S = 5.0  # longest wait of /live where 300 others want a descriptor and other cases run
MOST_LOGGED_BYTES = 100_000  # of 300 clients: a line for each request, none for each try to accept one
SLOW = {"response_format": "pcm", "speed": 0.25, "sample_rate": 48_000}  # eight times the bytes


def cases(*, quick: bool) -> Iterator[Case]:
    """Against tier 2 of a pair with a key."""
    yield from _stopped_readers()
    yield from _slow_senders(SPEECH, KEYED, quick=quick)
    yield from _leavers()
    for name, (sent, status) in wire.wrong_requests(SPEECH, KEYED).items():
        yield Case("wrong requests", name, _refused(sent, status))
    for path in SOCKETS:
        for name, (sent, status) in wire.wrong_handshakes(path, KEYED).items():
            yield Case("handshakes", f"{path}, {name}", _refused(sent, status))
        for name, (sent, code) in wire.WRONG_FRAMES.items():
            yield Case("wrong frames", f"{path}, {name}", _closed(path, sent, code))
        for name, headers in _BROWSERS.items():
            yield Case("handshakes", f"{path}, {name}", _accepted(path, headers))
    for name, flood in hostile.FLOODS.items():
        for keys, who in ((KEYED, "with a key"), ((), "without a key")):
            yield Case("floods", f"{name}, {who}", _flood(flood, keys), alone=True)
    for path in (SPEECH,) if quick else (SPEECH, f"{SPEECH}/stream"):
        for name, body in bodies.SPEECH_BODIES.items():
            yield Case(
                "bodies", f"{path}, {name}", _refused(post(body, path, [*KEYED, CLOSE]), 400), alone=True
            )
    for name, text in _NUMBERS.items():
        yield Case("numbers", f"16,384 characters of {name}", _normalized(text), alone=True, free_s=20)


def tier_1_cases() -> Iterator[Case]:
    """Against tier 1 of the same pair."""
    yield from _slow_senders(COMPLETIONS, (), quick=True)
    yield Case(
        "stopped readers", "tier 1, a stream", _stops_reading(post(_completion(), COMPLETIONS)), free_s=30
    )
    for name, (sent, status) in wire.wrong_requests(COMPLETIONS).items():
        yield Case("wrong requests", f"tier 1, {name}", _refused(sent, status))
    for name, (body, _) in bodies.COMPLETION_BODIES.items():
        yield Case("bodies", f"tier 1, {name}", _refused(post(body, COMPLETIONS, [CLOSE]), 400), alone=True)
    for name, body in bodies.ODD_COMPLETION_BODIES.items():
        yield Case("bodies", f"tier 1, {name}, which is served", _served(body), alone=True)
    for character in "<|ä":
        body = json.dumps({"prompt": character * 4096, "max_tokens": 7}).encode()
        name = f"tier 1, a prompt of 4,096 × {character}"
        yield Case("bodies", name, _answered(post(body, COMPLETIONS, [CLOSE])), alone=True)
    for name in ("one_byte_chunks", "pipelined", "pipelined_posts", "long_line", "new_connections"):
        yield Case("floods", f"tier 1, {name}", _flood(hostile.FLOODS[name], ()), alone=True)


# Readers that stop


def _stopped_readers() -> Iterator[Case]:
    """Each asks for more than the system keeps for it, and reads nothing."""

    def spoken(path: str = SPEECH, **fields: object) -> bytes:
        return post({"input": LONG, "voice": "tara"} | SLOW | fields, path, KEYED)

    for name, sent in {
        "audio": spoken(),
        "events": spoken(stream_format="sse"),
        "stream": spoken(f"{SPEECH}/stream"),
        "whole file": spoken(response_format="wav", stream=False, input=SENTENCE * 4),
    }.items():
        yield Case("stopped readers", name, _stops_reading(sent), free_s=30)
    for path, said in spoken_on(LONG).items():
        yield Case("stopped readers", path, _stops_reading(said, path), free_s=30)
    yield Case("stopped readers", "one that reads as slowly as speech is served", _reads_slowly)


def spoken_on(text: str) -> dict[str, bytes]:
    """What to send on each socket to have `text` spoken, as fast as it can be read where that can be said."""
    config = {"voice": "tara", "stream_audio": True, "lead_s": 3600, **SLOW}
    words = b"".join(frame(hostile.BINARY, _word(word)) for word in text.split())
    return {
        SESSION: message(type="session.config", **config)
        + message(type="input.text", text=text)
        + message(type="input.done"),
        f"{PLAIN}?speed=0.25&lead_s=3600": frame(hostile.TEXT, text.encode()),
        UNMUTE: words + frame(hostile.BINARY, b"\x81\xa4type\xa3Eos"),
    }


def _word(word: str) -> bytes:
    return b"\x82\xa4type\xa4Text\xa4text" + bytes([0xA0 + len(word)]) + word.encode()


def _stops_reading(sent: bytes, path: str | None = None) -> Callable[[Stage], str | None]:
    within_s = 20 + STALL_S + SLACK_S  # from when the last of it fits nowhere: it is also to be generated

    def run(stage: Stage) -> str | None:
        with contextlib.closing(opened(stage.url, receive_bytes=4096, timeout_s=60)) as reader:
            if path is not None:
                hostile.shake(reader, path, stage.keys)
            reader.sendall(sent)
            until_s = time.monotonic() + within_s
            while time.monotonic() < until_s:
                time.sleep(0.5)
                if reader.getsockname()[1] not in stage.tier.clients():
                    return None
        return f"its connection is still held after {within_s:g} s"

    return run


def _reads_slowly(stage: Stage) -> str | None:
    body = {"input": SENTENCE * 6, "voice": "tara", "response_format": "pcm"}
    with contextlib.closing(opened(stage.url, receive_bytes=4096, timeout_s=30)) as reader:
        reader.sendall(post(body, headers=[*stage.keys, ("Connection", "close")]))
        started_s, got, end = time.monotonic(), 0, b""
        while data := reader.recv(4096):
            got, end = got + len(data), (end + data)[-5:]
            time.sleep(max(0.0, got / 48_000 - (time.monotonic() - started_s)))
    return None if end == b"0\r\n\r\n" else f"it was cut off after {got / 48_000:.1f} s"


# Slow senders


def _slow_senders(path: str, keys: hostile.Headers, *, quick: bool) -> Iterator[Case]:
    tier = "tier 1, " if path == COMPLETIONS else ""
    whole = post({"input": "Hello."}, path, keys)
    body_starts = whole.index(b"\r\n\r\n") + 4

    def case(name: str, run: Callable[[Stage], str | None]) -> Case:
        return Case("slow senders", tier + name, run, free_s=10)

    yield case("says nothing", _timed(b"", 0, HEAD_S))
    yield case("half a request line", _timed(b"GET /live HT", 408, HEAD_S))
    yield case("half of the headers", _timed(whole[: body_starts - 2], 408, HEAD_S))
    yield case(
        "headers of a byte a second", _dribbled(b"", head("GET", "/live", [("X", "x" * 99)]), 408, HEAD_S)
    )
    yield case("no body", _timed(whole[:body_starts], 408, BODY_S))
    yield case("half a body", _timed(whole[:-5], 408, BODY_S))
    yield case("half a chunk", _timed(chunked(path, keys) + b"5\r\nhel", 408, BODY_S))
    yield case("a body of a byte a second", _dribbled(chunked(path, keys), b"1\r\n \r\n" * 20, 408, BODY_S))
    yield case("keeps an answered connection", _timed(head("GET", "/metrics", keys), 200, KEEP_ALIVE_S))
    yield case("is refused and goes on", _goes_on(chunked(wire.UNKNOWN, keys)))
    if path == COMPLETIONS:
        return
    yield case("half a handshake", _timed(hostile.upgrade(SESSION, keys)[:-4], 408, HEAD_S))
    yield case("no body, without a key", _timed(post(b"x", path)[:-1], 401, 1.0))
    yield case("half-closes, and gets its audio", _half_closes)
    if not quick:
        for socket_path in SOCKETS:
            yield case(f"{socket_path}, says nothing", _silent_socket(socket_path))


def _timed(sent: bytes, status: int, limit_s: float) -> Callable[[Stage], str | None]:
    """It is answered with `status`, or not at all if that is 0, and closed after about `limit_s`."""

    def run(stage: Stage) -> str | None:
        return _as_promised(asked(stage.url, sent, limit_s + SLACK_S), status)

    return run


def _as_promised(answer: hostile.Answer, status: int) -> str | None:
    if answer.end == "open":
        return f"it is still open after {answer.seconds:.1f} s"
    return None if answer.status == status else f"it was answered {answer.status} instead of {status}"


def _dribbled(start: bytes, rest: bytes, status: int, limit_s: float) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        stop = threading.Event()
        with contextlib.closing(opened(stage.url)) as connection:
            connection.sendall(start)
            sending = threading.Thread(target=hostile.dribble, args=(connection, rest, 1.0, stop))
            sending.start()
            answer = answer_of(connection, limit_s + SLACK_S)
            stop.set()
            sending.join()
        return _as_promised(answer, status)

    return run


def _goes_on(start: bytes) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        until_s = time.monotonic() + LINGER_S + SLACK_S
        with contextlib.closing(opened(stage.url)) as connection, contextlib.suppress(OSError):
            connection.sendall(start)
            while time.monotonic() < until_s:
                connection.sendall(b"1\r\n \r\n")
                time.sleep(0.02)
            return f"it could go on for {LINGER_S + SLACK_S:g} s"
        return None

    return run


def _half_closes(stage: Stage) -> str | None:
    with contextlib.closing(opened(stage.url)) as connection:
        connection.sendall(post({"input": "Hello.", "response_format": "pcm"}, headers=stage.keys))
        connection.shutdown(socket.SHUT_WR)
        answer = answer_of(connection, 60)
    return None if answer.data.endswith(b"0\r\n\r\n") else f"it got {answer.data[:80]!r}"


def _silent_socket(path: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with contextlib.closing(hostile.socket_of(stage.url, path, stage.keys)) as connection:
            answer = answer_of(connection, FIRST_TEXT_S + SLACK_S)
        if answer.end == "open":
            return f"it is still open after {answer.seconds:.0f} s"
        return None if answer.close_code == 1000 else f"it was closed with {answer.close_code}"

    return run


# Clients that leave


def _leavers() -> Iterator[Case]:
    for leave in (hostile.reset, socket.socket.close):
        how = "resets" if leave is hostile.reset else "closes"
        for name, fields in {"audio": {}, "events": {"stream_format": "sse"}}.items():
            sent = post({"input": LONG, "response_format": "pcm"} | fields, headers=KEYED)
            yield Case("leavers", f"{name}, {how}", _leaves(sent, leave))
        for path, said in spoken_on(LONG).items():
            yield Case("leavers", f"{path}, {how}", _leaves(said, leave, path))


def _leaves(
    sent: bytes, leave: Callable[[socket.socket], None], path: str | None = None
) -> Callable[[Stage], str | None]:
    """In mid-speech. That its place is free afterwards is looked at once for all cases."""

    def run(stage: Stage) -> str | None:
        connection = opened(stage.url, timeout_s=60)
        if path is not None:
            hostile.shake(connection, path, stage.keys)
        connection.sendall(sent)
        got = b""
        while len(got) < 4096 and (data := connection.recv(4096)) and not got.startswith(b"HTTP/1.1 4"):
            got += data
        leave(connection)
        if got.startswith(b"HTTP/1.1 429"):
            return None  # others have the places; it has left all the same
        return None if len(got) >= 4096 else f"it got only {got[:80]!r}"

    return run


# What is wrong


def _refused(sent: bytes, status: int) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        answer = asked(stage.url, sent, 15)
        if (problem := _as_promised(answer, status) if answer.end != "open" else None) is None:
            body = answer.data.partition(b"\r\n\r\n")[2]
            if answer.status != status:
                return f"it was answered {answer.status} instead of {status}"
            if len(body) > 600:
                return f"the answer has {len(body)} bytes"
        return problem

    return run


def _closed(path: str, sent: bytes, code: int) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with contextlib.closing(hostile.socket_of(stage.url, path, stage.keys)) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(sent)
            answer = answer_of(connection, 15)
        if answer.end != "closed":
            return f"the connection is {answer.end}"
        return (
            None if answer.close_code == code else f"it was closed with {answer.close_code} instead of {code}"
        )

    return run


_BROWSERS: dict[str, hostile.Headers] = {
    "a cookie of 9 KB, which is accepted": [("Cookie", "x" * 9000)],
    "100 cookies, which are accepted": [("Cookie", "; ".join(f"s{n}={'x' * 300}" for n in range(100)))],
    "200 headers, which are accepted": [(f"X-Header-{n}", "x") for n in range(200)],
}


def _accepted(path: str, headers: hostile.Headers) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        hostile.socket_of(stage.url, path, [*headers, *stage.keys]).close()
        return None

    return run


# What costs much


def _flood(flood: Flood, keys: hostile.Headers) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with hostile.flooded(stage.url, flood, 1, keys):
            time.sleep(stage.seconds if keys else stage.seconds / 2)  # without one it is soon refused
        return None

    return run


_NUMBERS = {
    "digits": "7" * 16_000,
    "grouped digits": "7,777," * 2_700,
    "prices": "$1.5 " * 3_200,
    "ordinals": "1st 2nd " * 2_000,
    "times and dates": "12:30 1/2/2024 " * 1_050,
    "points": "1." * 8_000,
}


def _normalized(text: str) -> Callable[[Stage], str | None]:
    """Over the session socket, which takes the longest texts; it leaves once it has heard something."""
    config = {"voice": "tara", "response_format": "pcm", "stream_audio": True, "normalize": True}
    sent = message(type="session.config", **config) + message(type="input.text", text=text)

    def run(stage: Stage) -> str | None:
        with contextlib.closing(hostile.socket_of(stage.url, SESSION, stage.keys)) as connection:
            connection.sendall(sent + message(type="input.done"))
            answer = answer_of(connection, 2)
        return None if answer.data else "nothing came"

    return run


def _served(body: bytes) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        status = asked(stage.url, post(body, COMPLETIONS, [CLOSE]), 30).status
        return None if status == 200 else f"it was answered {status}"

    return run


def _answered(sent: bytes) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        answer = asked(stage.url, sent, 30)
        return None if answer.status in (200, 400) else f"it was answered {answer.status}"

    return run


def _completion() -> bytes:
    """A completion of many bytes."""
    fields = {"stream": True, "constrained": False, "temperature": 2, "return_token_ids": True}
    return json.dumps({"prompt": "tara: " + LONG, "max_tokens": 1500, **fields}).encode()


# Few descriptors


def descriptor_cases() -> Iterator[Case]:
    """Against tier 2 with 160 descriptors."""
    for name, sent in {
        "say nothing": b"",
        "send half a request": b"GET /live HT",
        "send half a body": post(b"{}")[:-1],
        "keep an answered connection": head("GET", "/v1/models"),
        "open a WebSocket and say nothing": hostile.upgrade(),
        "leave their end half open": head("GET", "/live", [("Connection", "close")]),
    }.items():
        yield Case("descriptors", f"300 {name}", _crowding(sent), free_s=15)
    yield Case(
        "descriptors", "300 say nothing where the system refuses sooner", _crowding(b"", 40), free_s=15
    )


def _crowding(sent: bytes, at_most: int | None = None) -> Callable[[Stage], str | None]:
    """`/live` is answered throughout, and the log stays short. `at_most` descriptors are left without warning."""

    def run(stage: Stage) -> str | None:
        logged = len(stage.output())
        pid = stage.tier.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        if at_most is not None:
            resource.prlimit(
                pid, resource.RLIMIT_NOFILE, (stage.tier.descriptors().total() + at_most, limits[1])
            )
        probe = hostile.Probe(stage.url)
        try:
            with contextlib.ExitStack() as stack:
                for number in range(300):
                    connection = stack.enter_context(contextlib.closing(opened(stage.url)))
                    with contextlib.suppress(OSError):  # it made room for others
                        connection.sendall(sent)
                    if number % 20 == 0:
                        probe.ask(1)
                probe.ask(50, 0.04)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        more = len(stage.output()) - logged
        if probe.failed:
            return f"/live failed {probe.failed} times of {len(probe.times_s)}"
        if probe.worst_s > FULL_S:
            return f"/live waited {probe.worst_s:.1f} s"
        return f"{more} bytes were logged" if more > MOST_LOGGED_BYTES else None

    return run
