"""Spans of the real pair on the embedded voice: whose they are, what they tell, what they never tell."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from opentelemetry import propagate
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from websockets.sync.client import connect

from orpheus import logs, otel, tracing
from orpheus.codec.service import CodecStream
from orpheus.llama.server import create_app as create_llama
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.encode import Encoder
from orpheus.tts.traced import traced_decoder, traced_encoder
from tests.support.live import clean_environment, free_port, running_pair, served
from tests.support.llama import load
from tests.support.traces import Traces, attributes, recorded
from tests.support.waiting import eventually

FIRST, SECOND = "The boat drifted slowly down the river.", "Nobody on the bank had seen who was rowing it."
TEXT = f"{FIRST} {SECOND}"
SPEECH = "POST /v1/audio/speech"
KEY = "sk-nobody-may-read-this"
TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}
TIER_1 = ["tier 1", ".POST /v1/completions", "..queue", "..prefill", "..generate"]


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[httpx.Client, Traces]]:
    """Both tiers as applications of this process, traced, over HTTP."""
    with ExitStack() as stack:
        traces = stack.enter_context(recorded())
        tier1 = create_llama(load_settings(model="embedded"), load)
        llama_url = stack.enter_context(served(tier1))
        settings = load_settings(model="embedded", llama_endpoint=llama_url, api_keys=KEY, get_speech=True)
        url = stack.enter_context(served(create_app(SpeechService.over_http(settings))))
        client = stack.enter_context(
            httpx.Client(base_url=url, trust_env=False, timeout=30, headers={"x-api-key": KEY})
        )
        eventually(lambda: client.get("/ready").status_code == 200)
        yield client, traces


@pytest.fixture
def client(kept: tuple[httpx.Client, Traces]) -> httpx.Client:
    return kept[0]


@pytest.fixture
def traces(kept: tuple[httpx.Client, Traces]) -> Traces:
    kept[1].clear()
    return kept[1]


def speech(text: str = TEXT, **more: Any) -> dict[str, Any]:
    return {"input": text, "voice": "tara", "response_format": "mp3", "seed": 3, **more}


def lasts(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_a_request_is_one_tree_over_both_tiers_and_goes_on_the_callers_trace(
    client: httpx.Client, traces: Traces
) -> None:
    answer = client.post("/v1/audio/speech", json=speech(), headers=CALLER | {"x-request-id": "req-7"})
    assert answer.status_code == 200
    traces.wait_for("generate", 2)
    (request,) = traces.wait_for(SPEECH)
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER_ID
    assert {f"{span.context.trace_id:032x}" for span in traces.spans} == {TRACE_ID}
    segment = ["segment", *(f".{name}" for name in TIER_1)]
    tree = traces.tree(request)
    assert sorted(tree) == sorted(2 * [*segment, ".first audio", ".codec"] + ["encode"])

    first, second = traces.named("segment")
    assert (attributes(first)["segment"], attributes(second)["segment"]) == (0, 1)
    assert [attributes(span)["chars"] for span in (first, second)] == [len(FIRST), len(SECOND)]
    assert attributes(first)["voice"] == "tara"
    assert attributes(first)["finish_reason"] == "stop"
    assert lasts(first)[1] <= lasts(second)[0], "one after the other"

    for tier1 in traces.named("POST /v1/completions"):
        queue, prefill, generate = traces.below(tier1)
        assert lasts(queue)[1] == pytest.approx(lasts(prefill)[0], abs=1e6), (
            "each begins where the last ended"
        )
        assert lasts(prefill)[1] == pytest.approx(lasts(generate)[0], abs=1e6)
        assert cast(int, attributes(prefill)["prompt_tokens"]) > 5
        assert cast(int, attributes(generate)["frames"]) > 5
        assert attributes(generate)["finish_reason"] == "stop"
        assert attributes(tier1)["request_id"] == "req-7"
        assert tier1.kind is SpanKind.SERVER
    assert {span.kind for span in traces.named("tier 1")} == {SpanKind.CLIENT}

    for codec in traces.named("codec"):
        lasted_ms = (lasts(codec)[1] - lasts(codec)[0]) / 1e6
        assert 0 < cast(float, attributes(codec)["busy_ms"]) <= lasted_ms + 1
    (encode,) = traces.named("encode")
    assert attributes(encode)["bytes"] == len(answer.content)
    told = attributes(request)
    assert told["http.response.status_code"] == 200
    assert (told["request_id"], told["voice"], told["format"]) == ("req-7", "tara", "mp3")
    assert all(span.status.status_code is StatusCode.UNSET for span in traces.spans)


def test_the_span_of_a_request_ends_with_its_last_byte(client: httpx.Client, traces: Traces) -> None:
    with client.stream("POST", "/v1/audio/speech", json=speech(FIRST, response_format="pcm")) as response:
        assert response.status_code == 200
        assert not traces.named(SPEECH), "it has only begun"
        size = sum(map(len, response.iter_bytes()))
    (request,) = traces.wait_for(SPEECH)
    (segment,) = traces.wait_for("segment")
    assert size > 24_000
    assert lasts(request)[0] < lasts(segment)[0]
    assert lasts(segment)[1] <= lasts(request)[1]


def test_neither_texts_nor_keys_nor_addresses_are_told(client: httpx.Client, traces: Traces) -> None:
    query = {"input": FIRST, "voice": "tara", "api_key": KEY}
    assert client.get("/v1/audio/speech", params=query).status_code == 200
    assert client.post("/v1/audio/speech", json=speech(voice="private-name")).status_code == 400
    assert client.get("/my/secret/path?api_key=" + KEY).status_code == 404
    traces.wait_for("generate")
    eventually(lambda: len([span for span in traces.spans if span.kind is SpanKind.SERVER]) == 4)
    told = "".join(span.to_json() for span in traces.spans)
    for private in ("boat", "river", KEY, "127.0.0.1", "private-name", "secret", str(client.base_url.port)):
        assert private not in told
    assert all(not span.events for span in traces.spans)


def test_whoever_looks_after_the_tiers_leaves_no_traces(client: httpx.Client, traces: Traces) -> None:
    for path in ("/live", "/ready", "/health", "/health/", "/metrics"):
        assert client.get(path).status_code == 200
    client.get("/v1/audio/voices")
    traces.wait_for("GET /v1/audio/voices")
    assert len(traces.spans) == 1


def test_a_failure_is_told_by_its_kind_in_every_span_above_it(client: httpx.Client, traces: Traces) -> None:
    assert client.post("/v1/audio/speech", json=speech(FIRST, max_tokens=7)).status_code == 500
    (request,) = traces.wait_for(SPEECH)
    segments = traces.wait_for("segment", 2)
    assert [attributes(span)["attempt"] for span in segments] == [0, 1], "it was tried twice"
    for span in segments:
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "generation_failed")
        assert attributes(span)["error.type"] == "generation_failed"
        assert attributes(span)["finish_reason"] == "length"
    assert request.status.status_code is StatusCode.ERROR
    assert attributes(request)["http.response.status_code"] == 500


def test_a_client_that_leaves_is_seen_down_to_tier_1(client: httpx.Client, traces: Traces) -> None:
    long = " ".join([FIRST, SECOND] * 20)
    with client.stream("POST", "/v1/audio/speech", json=speech(long, response_format="pcm")) as response:
        next(response.iter_bytes())
    (request,) = traces.wait_for(SPEECH)
    eventually(
        lambda: any(attributes(span).get("outcome") == "cancelled" for span in traces.named("segment"))
    )
    eventually(lambda: traces.named("generate") or traces.named("queue"))
    assert attributes(request)["outcome"] == "cancelled"
    assert request.status.status_code is StatusCode.OK
    last = traces.named("segment")[-1]
    assert last.status.status_code is StatusCode.UNSET, "to leave is no error"
    assert len(traces.named("segment")) < 20
    (tier1,) = [span for span in traces.below(last) if span.name == "tier 1"]
    eventually(lambda: traces.tree(tier1)[1:])
    assert attributes(traces.below(traces.below(tier1)[0])[-1])["outcome"] == "cancelled"


def test_an_utterance_of_a_socket_is_below_its_connection(client: httpx.Client, traces: Traces) -> None:
    url = f"{client.base_url}".replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/v1/audio/speech/stream/ws?voice=tara&api_key={KEY}", proxy=None) as socket:
        socket.send(FIRST)
        socket.send(SECOND)
        assert sum(map(len, socket)) > 24_000
    (connection,) = traces.wait_for("WS /v1/audio/speech/stream/ws")
    assert connection.kind is SpanKind.SERVER
    spoken = traces.below(connection)
    assert {span.name for span in spoken} == {"utterance"}
    assert "segment" in traces.tree(spoken[0])
    assert ".." + TIER_1[1].lstrip(".") in traces.tree(spoken[0])
    assert "encode" in traces.tree(spoken[0])
    assert KEY not in "".join(span.to_json() for span in traces.spans)


def test_the_line_of_a_request_holds_its_id_and_that_of_the_trace(
    client: httpx.Client, traces: Traces, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Kept()
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("orpheus.server.request")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger.name):
            client.get("/v1/models", headers=CALLER | {"x-request-id": "req-8"})
            eventually(lambda: lines)
    finally:
        logger.removeHandler(handler)
    assert (lines[0]["request_id"], lines[0]["trace_id"]) == ("req-8", TRACE_ID)
    traces.wait_for("GET /v1/models")


# Off


async def _generator() -> AsyncGenerator[int]:
    yield 1


@pytest.mark.anyio
async def test_what_runs_for_each_frame_is_the_same_as_without_tracing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_on", None)
    assert tracing.each("segment", _generator) is _generator
    stream, encoder = cast(CodecStream, object()), cast(Encoder, object())
    assert traced_decoder(stream) is stream
    assert traced_encoder(encoder, "mp3") is encoder
    assert tracing.here() is None
    with tracing.call("tier 1") as headers:
        assert headers == {}


def test_without_variables_nothing_of_opentelemetry_is_imported() -> None:
    """FastAPI itself imports the API; that is all there is."""
    source = """
import sys, fastapi
def loaded():
    return {name for name in sys.modules if name.split(".")[0] == "opentelemetry"}
before = loaded()
import orpheus.cli, orpheus.llama.server, orpheus.llama.engine, orpheus.server.app, orpheus.agent.app
from orpheus import tracing
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
tracing.configure(tracing.SPEECH)
app = orpheus.server.app.create_app(SpeechService.over_http(load_settings(model="embedded")))
assert not app._native_telemetry.enabled()
print(*sorted(loaded() - before), *sorted(name for name in loaded() if ".sdk" in name or ".exporter" in name))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# What the variables say


@contextmanager
def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logger = logging.getLogger("opentelemetry")
    handlers, propagate = logger.handlers, logger.propagate
    of_others = tracing._on
    tracing.use(None)
    tracing.configure("orpheus-test")
    try:
        yield
    finally:
        if tracing._on is not None:
            tracing._on._provider.shutdown()
        tracing.use(of_others)
        logger.handlers, logger.propagate = handlers, propagate


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "speech"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    ],
)
def test_it_is_off_unless_something_says_where_to(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    with configured(monkeypatch, **variables):
        assert not tracing.is_on()


@pytest.mark.parametrize(
    ("variables", "advice"),
    [
        ({"OTEL_TRACES_EXPORTER": "smoke-signals"}, "set one of console, otlp, otlp_proto_http, or none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "pip install opentelemetry-exporter-otlp-proto-grpc"),
    ],
)
def test_what_cannot_be_exported_to_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    advice: str,
) -> None:
    with configured(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **variables):
        assert not tracing.is_on()
    (record,) = caplog.records
    assert advice in record.getMessage()


def test_without_the_extra_the_log_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "orpheus.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with configured(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"):
        assert not tracing.is_on()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "pip install 'orpheus-tts-pair[otel]'" in record.getMessage()


class Collector:
    """What an OTLP collector over HTTP is sent."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        self.headers: list[str | None] = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.set()
                collector.answers.wait(20)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                collector.paths.add(self.path)
                collector.headers.append(self.headers["x-collector-key"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Collector]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.answers.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def spans(self) -> list[tuple[str, Any]]:
        """Each span with the name of its service."""
        return [
            (service_of(resource), span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def service_of(resource_spans: Any) -> str:
    known = {each.key: each.value.string_value for each in resource_spans.resource.attributes}
    assert known["service.version"]
    return known["service.name"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().running() as running:
        yield running


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "orpheus-test"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,deployment.environment=x"}, "ours"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, None),
    ],
)
@pytest.mark.anyio
async def test_spans_are_sent_as_the_variables_say(
    monkeypatch: pytest.MonkeyPatch, collector: Collector, variables: dict[str, str], expected: str | None
) -> None:
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=open",
    }
    with configured(monkeypatch, **given, **variables):
        async with tracing.flushed():
            with tracing.span("work", chars=7):
                pass
    assert [service for service, _ in collector.spans()] == ([expected] if expected else [])
    if expected:
        assert (collector.paths, collector.headers) == ({"/v1/traces"}, ["open"])


@pytest.mark.anyio
async def test_a_collector_that_never_answers_keeps_no_server_from_ending(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    collector.answers.clear()
    with configured(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url):
        async with tracing.flushed():
            with tracing.span("work"):
                pass
        assert collector.asked.is_set()
        assert not collector.requests, "it still waits"
        collector.answers.set()


def test_a_collector_that_is_gone_is_one_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "OTEL_BSP_MAX_QUEUE_SIZE": "4",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.1",
    }
    with configured(monkeypatch, **gone):
        for _ in range(200):
            with tracing.span("work"):
                pass
        eventually(lambda: caplog.records)
        complaints = logging.getLogger("opentelemetry").handlers
        assert [type(handler) for handler in complaints] == [otel._Reports]
        for _ in range(200):
            with tracing.span("work"):
                pass
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "orpheus.otel"
    assert "at most once a minute" in caplog.records[0].getMessage()


def test_a_client_whose_headers_are_not_understood_has_no_line_and_hides_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent = CALLER | {"tracestate": "k=\xff", "baggage": "no pair"}
    with configured(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"):
        propagate.extract(sent)
        assert not caplog.records
        logging.getLogger("opentelemetry.exporter.otlp").warning("The collector is gone.")
    assert "The collector is gone." in caplog.text


def test_a_key_that_opentelemetry_cannot_read_is_not_in_its_complaint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization Bearer-of-a-secret",
    }
    with configured(monkeypatch, **given):
        assert tracing.is_on()
    assert "Header format invalid" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.slow
def test_a_pair_exports_both_tiers_as_services_of_one_trace(collector: Collector, tmp_path: Path) -> None:
    """And what is in the queue at the end is sent before the processes end."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    with running_pair(tmp_path, ORPHEUS_LOG_FORMAT="json", **variables) as pair:
        body = speech(response_format="pcm")
        assert httpx.post(f"{pair.url}/v1/audio/speech", json=body, trust_env=False, timeout=30).is_success
        assert not collector.requests
        code, _ = pair.stop()
        assert code == 0
        log = pair.log.read_text()
    found = collector.spans()
    assert {service for service, _ in found} == {"orpheus-llama", "orpheus-speech"}
    request_ids = [span.trace_id.hex() for service, span in found if span.name == SPEECH]
    assert len(request_ids) == 1
    ours = [(service, span) for service, span in found if span.trace_id.hex() == request_ids[0]]
    calls = {span.span_id for service, span in ours if span.name == "tier 1"}
    served = [span for service, span in ours if span.name == "POST /v1/completions"]
    assert len(calls) == len(served) == 2
    assert {span.parent_span_id for span in served} == calls
    assert {span.name for service, span in ours if service == "orpheus-llama"} == {
        "POST /v1/completions",
        "queue",
        "prefill",
        "generate",
    }
    assert re.search(rf'"trace_id": "{request_ids[0]}"', log)


@pytest.mark.slow
def test_in_one_process_the_engines_spans_are_below_the_segment(collector: Collector, tmp_path: Path) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "both"}
    with running_pair(tmp_path, "--in-process", **variables) as pair:
        body = speech(FIRST, response_format="pcm")
        assert httpx.post(f"{pair.url}/v1/audio/speech", json=body, trust_env=False, timeout=30).is_success
        pair.stop()
    found = [span for service, span in collector.spans() if service == "both"]
    (segment,) = [span for span in found if span.name == "segment"]
    below = [span.name for span in found if span.parent_span_id == segment.span_id]
    assert sorted(below) == ["codec", "first audio", "generate", "prefill", "queue"]
