"""Every request gets one id and one log line, however it ends; no layer turns a broken body into a clean end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from orpheus import logs
from orpheus.codec import Codec
from orpheus.server.admission import INTERRUPTED, Admission
from orpheus.server.app import create_app
from orpheus.server.request_context import RequestContext
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.encode import FORMATS, Format
from orpheus.tts.token_source import HttpTokenSource
from tests.server.conftest import SharedCodec
from tests.support.speech import PATH, SAMPLES, ask
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually, until

Start = Callable[..., httpx.Client]
# Every layer that can wrap a request.
ALL_LAYERS = {"api_keys": "k", "cors_origins": "*", "cache": "memory:", "max_requests_per_key": 5}
KEY = {"Authorization": "Bearer k", "Origin": "https://a.example"}
SECRET_TEXT = "My secret is lavender."


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The fields of all log lines of requests, once there is a new one."""
    caplog.set_level(logging.INFO, logger="orpheus")
    seen = 0

    def logged() -> list[dict[str, Any]]:
        records = [record for record in list(caplog.records) if record.name == "orpheus.server.request"]
        fields = [vars(record)["fields"] for record in records if hasattr(record, "fields")]
        return [line for line in fields if line["route"] != "/health"]

    def wait() -> list[dict[str, Any]]:
        nonlocal seen
        eventually(lambda: len(logged()) > seen)
        seen = len(logged())
        return logged()

    return wait


def test_a_request_keeps_its_id_or_gets_a_new_one(speech: Start) -> None:
    client = speech()
    named = client.post(PATH, json=ask(), headers={"x-request-id": "call-42.a"})
    assert named.headers["x-request-id"] == "call-42.a"
    assert int(named.headers["openai-processing-ms"]) >= 0
    for unsafe in ("x" * 129, "a b", "{}", ""):
        given = client.get("/v1/models", headers={"x-request-id": unsafe}).headers["x-request-id"]
        assert given.startswith("req_")
    for path in ("/v1/nothing", "/v1/models/none", "/health"):
        assert client.get(path).headers["x-request-id"].startswith("req_")
    invalid = client.post(PATH, json=ask(voice="bob"), headers={"x-request-id": "w"})
    assert (invalid.status_code, invalid.headers["x-request-id"]) == (400, "w")


def test_the_log_line_describes_the_speech_and_its_speed(speech: Start, lines: Any) -> None:
    body = ask(input=SECRET_TEXT, voice="alloy", response_format="opus")
    speech().post(PATH, json=body, headers={"x-request-id": "r1"})
    line = lines()[-1]
    assert line["route"] == PATH
    assert line["request_id"] == "r1"
    assert (line["status"], line["outcome"]) == (200, "done")
    assert (line["voice"], line["format"], line["segments"]) == ("tara", "opus", 1)
    assert line["chars"] == len(SECRET_TEXT)
    assert line["audio_s"] == pytest.approx(SAMPLES / 24_000, abs=0.001)
    assert line["rtf"] > 0
    assert line["first_byte_ms"] > 0


def test_the_text_is_logged_only_if_the_setting_asks_for_it(
    speech: Start, upstream: Upstream, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    speech().post(PATH, json=ask(input=SECRET_TEXT))
    lines()
    upstream.events = whole(0)  # the error must not quote the text either
    assert speech().post(PATH, json=ask(input=SECRET_TEXT)).status_code == 500
    lines()
    assert "lavender" not in "".join(f"{r.getMessage()}{vars(r)}" for r in caplog.records)
    upstream.reset()
    speech(log_text=True).post(PATH, json=ask(input=SECRET_TEXT))
    assert lines()[-1]["text"] == SECRET_TEXT


def test_a_client_that_leaves_is_logged_as_cancelled(speech: Start, upstream: Upstream, lines: Any) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    with speech().stream("POST", PATH, json=ask(response_format="pcm")) as response:
        next(response.iter_raw())
    line = lines()[-1]
    assert (line["status"], line["outcome"]) == (200, "cancelled")
    assert line["audio_s"] > 0


def test_an_invalid_request_is_logged_as_refused_not_as_failed(speech: Start, lines: Any) -> None:
    speech().post(PATH, json=ask(voice="bob"))
    line = lines()[-1]
    assert (line["status"], line["outcome"]) == (400, "refused")


@pytest.mark.parametrize("format", FORMATS)
def test_with_every_layer_on_a_failure_in_the_middle_still_breaks_the_body(
    speech: Start, upstream: Upstream, lines: Any, caplog: pytest.LogCaptureFixture, format: Format
) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    body = ask(response_format=format, seed=1)
    with (
        speech(keep=True, **ALL_LAYERS).stream("POST", PATH, json=body, headers=KEY) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert sum(len(chunk) for chunk in response.iter_raw()) > 0
    line = lines()[-1]
    assert (line["status"], line["outcome"]) == (200, "failed")
    assert "Tier 1" in line["error"]
    (problem,) = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name[:7] == "orpheus"
    ]
    assert not problem.exc_info  # one clear line, without a traceback


def test_a_failure_before_any_audio_is_a_response_with_the_id(
    speech: Start, upstream: Upstream, lines: Any
) -> None:
    upstream.break_after = 0
    response = speech().post(PATH, json=ask())
    assert response.status_code == 502
    assert lines()[-1]["request_id"] == response.headers["x-request-id"]


def test_a_bug_is_a_500_with_the_id_and_a_traceback_in_the_log(
    speech: Start, lines: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = speech()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug that names /secret/paths")

    monkeypatch.setattr("orpheus.server.service.open_encoder", broken)
    response = client.post(PATH, json=ask())
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == lines()[-1]["request_id"]
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(("break_after", "status", "outcome"), [(None, 1000, "done"), (20, 1011, "failed")])
def test_a_websocket_has_a_log_line_and_an_id_too(
    speech: Start, upstream: Upstream, lines: Any, break_after: int | None, status: int, outcome: str
) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), break_after, 0.01
    base = str(speech().base_url).replace("http", "ws", 1).rstrip("/")
    with connect(
        f"{base}/v1/audio/speech/stream/ws", proxy=None, additional_headers={"x-request-id": "s1"}
    ) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == "s1"
        socket.send("Hello there.")
        try:
            for _ in socket:
                pass
        except Exception:
            assert break_after
    line = lines()[-1]
    assert (line["request_id"], line["status"], line["outcome"]) == ("s1", status, outcome)
    assert line["chars"] == len("Hello there.")


def test_refused_text_is_not_logged(speech: Start, lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.server.utterance_queue.MAX_STREAMED_CHARS", 100)
    base = str(speech(log_text=True).base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{base}/v1/audio/speech/stream", proxy=None) as socket:
        for text in ("Hello there.", *["x" * 101] * 3):
            socket.send(json.dumps({"type": "input.text", "text": text}))
        socket.send('{"type": "input.cancel"}')
        types: list[str] = []
        while "audio.cancelled" not in types:
            message = socket.recv(10)
            types.append("audio" if isinstance(message, bytes) else json.loads(message)["type"])
        assert types.count("error") == 1  # for all that is too much
    line = lines()[-1]
    assert (line["text"], line["chars"]) == ("Hello there.", len("Hello there."))


def test_the_logged_text_is_bounded() -> None:
    context = RequestContext("r1", text="")
    for _ in range(3):
        context.add_text("x" * 10_000)
    assert (len(context.text or ""), context.chars) == (20_000, 30_000)


def test_json_lines_carry_the_id_of_their_request() -> None:
    record = logging.LogRecord("orpheus.x", logging.INFO, __file__, 1, "hello %s", ("there",), None)
    record.fields = {"route": "/v1/x", "voice": None, "rtf": 0.25}
    token = logs.request_id.set("r7")
    try:
        line = json.loads(logs.JsonLines().format(record))
        text = logs.TextLines().format(record)
    finally:
        logs.request_id.reset(token)
    assert (line["message"], line["request_id"], line["rtf"], line["level"]) == (
        "hello there",
        "r7",
        0.25,
        "info",
    )
    assert "voice" not in line
    assert text == "INFO orpheus.x: hello there route=/v1/x rtf=0.25 request_id=r7"


def test_no_path_or_text_can_forge_a_line_or_a_field() -> None:
    record = logging.LogRecord("orpheus.x", logging.INFO, __file__, 1, "GET", (), None)
    record.fields = {"route": "/x\nINFO all is well", "text": "你好", "error": "a b status=200\x85\u2028"}
    line = logs.TextLines().format(record)
    assert line == (
        r"INFO orpheus.x: GET route='/x\nINFO all is well' text=你好 error='a b status=200\x85\u2028'"
    )


HTTP = {"type": "http", "method": "POST", "path": PATH, "headers": [(b"content-type", b"application/json")]}
SOCKET = {"type": "websocket", "path": "/ws", "headers": [], "subprotocols": []}


async def cancelled(
    service: SpeechService,
    scope: dict[str, Any],
    incoming: list[dict[str, Any]],
    until_s: Callable[[int], bool],
) -> list[dict[str, Any]]:
    """What is sent for a request that is cancelled, as Modal's container program does once its client has left.

    `until_s` gets the number of messages sent, and says whether it is time.
    """
    sent: list[dict[str, Any]] = []
    messages = asyncio.Queue[Any]()
    for message in incoming:
        messages.put_nowait(message)

    async def send(message: Any) -> None:
        sent.append(message)

    async with service.running():
        await service.loaded()
        scope = {"query_string": b"", "raw_path": b"", "root_path": "", "scheme": "http", **scope}
        running = asyncio.create_task(create_app(service)(scope, messages.get, send))
        await until(lambda: until_s(len(sent)))
        running.cancel()
        await asyncio.wait([running], timeout=15)
        assert running.cancelled() or running.exception() is None
        assert service.admission.active == 0
    return sent


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize(("scope", "status"), [(HTTP, 200), (HTTP, 499), (SOCKET, 1006)])
def test_a_cancelled_request_is_a_client_that_left_unless_the_server_shuts_down(
    codec: Codec,
    upstream: Upstream,
    upstream_url: str,
    lines: Any,
    monkeypatch: pytest.MonkeyPatch,
    draining: bool,
    scope: dict[str, Any],
    status: int,
) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    if before_audio := status == 499:
        upstream.hang_after = 0
    settings = load_settings(llama_endpoint=upstream_url, model="embedded", postprocess=False)
    service = SpeechService(settings, lambda: HttpTokenSource(settings), lambda _: SharedCodec(codec))
    monkeypatch.setattr(Admission, "draining", draining)
    body = json.dumps(ask(response_format="pcm")).encode()
    incoming: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
    if scope is SOCKET:
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "Hello there."}]
    sent = asyncio.run(
        cancelled(
            service, scope, incoming, lambda sent: bool(upstream.requests) if before_audio else sent >= 3
        )
    )
    line = lines()[-1]
    metrics = service.metrics.text().decode()
    if draining:
        assert (line["outcome"], line["error"]) == ("failed", INTERRUPTED)
        assert "orpheus_speech_failed_total 1.0" in metrics
        assert sent[-1].get("code", 1012) == 1012
    else:
        assert (line["outcome"], line["status"], line["error"]) == ("cancelled", status, None)
        assert "orpheus_speech_failed_total 0.0" in metrics
        assert "orpheus_speech_cancelled_total 1.0" in metrics
        assert len(sent) == 0 or not before_audio
    eventually(lambda: upstream.left == 1)


def test_head_requests_are_logged_as_such_and_a_probe_s_not_at_all(
    speech: Start, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = speech()
    for path in ("/live", "/ready", "/metrics", "/live/"):
        assert client.head(path).status_code == 200
    assert client.head("/v1/models").status_code == 200
    assert [line["route"] for line in lines()] == ["/v1/models"]
    assert caplog.messages[-1] == "HEAD"
