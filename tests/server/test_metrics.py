"""What a scrape shows after requests that succeed, fail or are abandoned."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse
from websockets.sync.client import connect

from orpheus.tts.usage import FIRST_BYTE_PARTS
from tests.support.speech import PATH, SAMPLES, ask
from tests.support.upstream import Upstream, event, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
FRAME_S = 2048 / 24_000


def scraped(client: httpx.Client) -> dict[str, float]:
    """Every sample by its name without our prefix; labels as `name{a,b}`, sorted by label name."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(sample.labels[name] for name in sorted(sample.labels))
            found[sample.name.removeprefix("orpheus_speech_") + (f"{{{labels}}}" if labels else "")] = (
                sample.value
            )
    return found


def test_a_successful_request_shows_in_every_metric(speech: Start) -> None:
    client = speech(max_requests=9)
    size = len(client.post(PATH, json=ask(response_format="pcm")).content)
    seen = scraped(client)
    assert seen[f"requests_total{{pcm,{PATH},200}}"] == 1
    assert seen["bytes_total{pcm}"] == size
    assert seen["audio_seconds_total"] == pytest.approx(SAMPLES / 24_000)
    for name in ("first_audio_seconds", "first_byte_seconds", "real_time_factor"):
        assert seen[f"{name}_count"] == 1
    assert 0 < seen["first_audio_seconds_sum"] <= seen["first_byte_seconds_sum"]
    waited_s = sum(seen[f"first_byte_part_seconds_sum{{{part}}}"] for part in FIRST_BYTE_PARTS)
    assert waited_s == pytest.approx(seen["first_byte_seconds_sum"], abs=1e-6)
    assert seen["first_byte_part_seconds_sum{codec}"] > 0
    assert seen["segments_total"] == 1
    assert seen["active"] == seen["waiting"] == seen["codec_streams"] == 0
    for name in ("rejected", "cancelled", "failed", "regenerated", "truncated", "resyncs"):
        assert seen[f"{name}_total"] == 0


def test_unsupported_tags_are_removed_and_counted(speech: Start, upstream: Upstream) -> None:
    client = speech(max_requests=9)
    client.post(PATH, json=ask(input="Well <laugh> hello <nonsense>there</nonsense>."))
    assert scraped(client)["removed_tags_total"] == 2
    assert "<laugh>" in upstream.requests[0]["prompt"]
    assert "nonsense" not in upstream.requests[0]["prompt"]


def test_audio_that_stalls_for_its_listener_is_an_underrun(
    speech: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr("orpheus.playout.time", clock)
    monkeypatch.setattr("orpheus.tts.usage.time", clock)
    upstream.events, upstream.hang_after = whole(30), 20
    client = speech(max_requests=9)
    with client.stream("POST", PATH, json=ask(response_format="pcm")) as response:
        chunks, size = response.iter_raw(), 0
        while size < 48_000:  # a second
            size += len(next(chunks))
        now_s += 5
        upstream.go_on.set()
        assert list(chunks)
    eventually(lambda: scraped(client)["active"] == 0)
    seen = scraped(client)
    assert seen["underruns_total"] == 1
    assert 5 - 20 * FRAME_S <= seen["underrun_seconds_total"] <= 5 - 1


def test_active_rejected_and_cancelled_requests_are_counted(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech(max_requests=1)
    with client.stream("POST", PATH, json=ask(response_format="pcm")) as response:
        chunks = response.iter_raw()
        next(chunks)
        seen = scraped(client)
        assert (seen["active"], seen["waiting"], seen["codec_streams"]) == (1, 0, 1)
        assert client.post(PATH, json=ask()).status_code == 429
    eventually(lambda: scraped(client)["cancelled_total"] == 1)
    seen = scraped(client)
    assert (seen["active"], seen["rejected_total"]) == (0, 1)


def test_audio_is_counted_when_it_is_sent_and_not_after_its_client_left(
    speech: Start, upstream: Upstream
) -> None:
    upstream.events, upstream.hang_after = whole(500), 20
    client = speech(max_requests=9)
    limit_s = 20 * FRAME_S  # what tier 1 sends before it hangs
    with client.stream("POST", PATH, json=ask(response_format="pcm")) as response:
        chunks, size = response.iter_raw(), 0
        while size < 48_000:
            size += len(next(chunks))
        seen = scraped(client)
        assert seen["active"] == 1
        assert size / 48_000 - 1e-6 <= seen["audio_seconds_total"] <= limit_s  # a sum of floats
        assert seen["bytes_total{pcm}"] == pytest.approx(seen["audio_seconds_total"] * 48_000)
    eventually(lambda: scraped(client)["active"] == 0)
    assert seen["audio_seconds_total"] <= scraped(client)["audio_seconds_total"] <= limit_s


def test_failures_and_rejections_are_counted_separately(speech: Start, upstream: Upstream) -> None:
    client = speech(max_requests=9)
    upstream.answer = JSONResponse({"error": {"message": "full"}}, 429)
    client.post(PATH, json=ask())
    upstream.answer, upstream.break_after = None, 0
    client.post(PATH, json=ask())
    client.post(PATH, json=ask(voice="bob"))
    seen = scraped(client)
    assert (seen["rejected_total"], seen["failed_total"], seen["waiting"]) == (1, 1, 0)


def test_a_segment_that_never_ends_is_counted_with_its_second_attempt(
    speech: Start, upstream: Upstream
) -> None:
    upstream.events = [event(reason="length"), "data: [DONE]\n\n"]
    client = speech(max_requests=9)
    assert client.post(PATH, json=ask()).status_code == 500
    seen = scraped(client)
    assert (seen["truncated_total"], seen["regenerated_total"]) == (2, 1)


def test_unknown_paths_share_one_series(speech: Start) -> None:
    client = speech(max_requests=9)
    for number in range(5):
        client.get(f"/wp-admin/{number}")
    assert scraped(client)["requests_total{,unrouted,404}"] == 5


def test_unusual_close_codes_share_one_series(speech: Start) -> None:
    client = speech(max_requests=9)
    for code in range(3000, 3005):
        with connect(str(client.base_url.copy_with(scheme="ws", path="/ws")), proxy=None) as socket:
            socket.close(code)
    eventually(lambda: scraped(client).get("requests_total{pcm,/ws,other}") == 5)
    assert not any(name.startswith("requests_total{pcm,/ws,3") for name in scraped(client))


def test_two_applications_count_separately(speech: Start) -> None:
    first, second = speech(max_requests=8), speech(max_requests=9)
    first.post(PATH, json=ask())
    assert scraped(second)["segments_total"] == 0
