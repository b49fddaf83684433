"""A real nginx as the gateway in front of a real pair: limits per key over time, and a line for each bill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus

from benchmarks.balancers.running import NGINX, running_nginx
from tests.support.live import Pair, running_pair
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
SMALL, LARGE = "KEY-OF-ACME", "KEY-OF-GLOBEX"
BURST, AT_ONCE = 10, 20
TEXT = "The boat drifted slowly down the river."
Gateway = tuple[str, Path, Pair]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Its address, its log and what is behind it."""
    if not NGINX:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("gateway")
    log = folder / "usage.log"
    with (
        running_pair(folder, ORPHEUS_API_KEYS="behind-it") as pair,
        running_nginx(
            folder,
            "gateway.conf",
            [pair.url.removeprefix("http://")],
            {"/var/log/nginx/orpheus-usage.log": str(log), "KEY-OF-TIER-2": "behind-it"},
        ) as url,
    ):
        yield url, log, pair


def usage(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def speak(url: str, text: str = TEXT, **more: Any) -> httpx.Response:
    body = {"input": text, "voice": "tara", "response_format": "pcm"}
    return httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60, trust_env=False, **more)


def test_a_customer_is_known_by_its_key_wherever_that_is_sent(gateway: Gateway) -> None:
    url, log, pair = gateway
    ways: list[dict[str, Any]] = [
        {"headers": {"Authorization": f"Bearer {LARGE}"}},
        {"headers": {"x-api-key": LARGE}},
        {"headers": {"kyutai-api-key": LARGE}},
        {"params": {"api_key": LARGE}},
        {"params": {"auth_id": LARGE}},
        {"params": {"worker_auth_id": LARGE}},
        {"headers": {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{LARGE}, more"}},
    ]
    for way in ways:
        assert speak(url, **way).status_code == 200
    for headers in (
        {},
        {"x-api-key": "unknown"},
        {"x-api-key": "behind-it"},
    ):  # tier 2's own is not for outside
        refused = speak(url, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert speak(pair.url, headers={"Authorization": f"Bearer {LARGE}"}).status_code == 401
    assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 404
    eventually(lambda: len(usage(log)) >= len(ways) + 4)
    customers = [line["customer"] for line in usage(log) if line["route"] == "/v1/audio/speech"]
    assert customers == ["globex"] * len(ways) + [""] * 3
    assert "KEY-OF" not in pair.log.read_text()


def test_a_limit_over_time_is_each_customers_own(gateway: Gateway) -> None:
    url, _, _ = gateway
    with httpx.Client(base_url=url, trust_env=False) as client:
        asked = [client.get("/v1/audio/voices", headers={"x-api-key": SMALL}) for _ in range(BURST + 8)]
        statuses = [answer.status_code for answer in asked]
        assert statuses[: BURST + 1] == [200] * (BURST + 1)
        assert statuses.count(429) >= 5
        refused = asked[statuses.index(429)]
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert client.get("/v1/audio/voices", headers={"x-api-key": LARGE}).status_code == 200
        # A second for each more.
        eventually(lambda: client.get("/v1/audio/voices", headers={"x-api-key": SMALL}).status_code == 200)


def test_a_socket_counts_for_as_long_as_it_is_open(gateway: Gateway) -> None:
    url, log, _ = gateway
    path = url.replace("http", "ws", 1) + "/v1/audio/speech/stream"
    headers = {"Authorization": f"Bearer {LARGE}"}
    with contextlib.ExitStack() as stack:

        def connect() -> websockets.sync.client.ClientConnection:
            return stack.enter_context(
                websockets.sync.client.connect(path, proxy=None, additional_headers=headers)
            )

        sockets = [connect() for _ in range(AT_ONCE)]
        with pytest.raises(InvalidStatus) as refused:
            connect()
        assert refused.value.response.status_code == 429
        sockets[0].send(json.dumps({"type": "session.config", "response_format": "pcm"}))
        sockets[0].send(json.dumps({"type": "input.text", "text": TEXT}))
        sockets[0].send(json.dumps({"type": "input.done"}))
        size = 0
        for frame in sockets[0]:
            size += len(frame) if isinstance(frame, bytes) else 0
            if isinstance(frame, str) and json.loads(frame)["type"] == "session.done":
                break
        assert size > 24_000
    eventually(lambda: any(line["status"] == 101 and line["bytes"] > size for line in usage(log)))


def test_speech_is_not_held_back_and_a_line_says_what_to_charge(gateway: Gateway) -> None:
    url, log, pair = gateway
    before = len(usage(log))
    body = {"input": TEXT * 8, "voice": "tara", "response_format": "pcm"}
    request = {"url": f"{url}/v1/audio/speech", "json": body, "headers": {"x-api-key": LARGE}}
    with httpx.Client(trust_env=False, timeout=60) as client:
        with client.stream("POST", **request) as answer:  # type: ignore[arg-type]
            chunks = answer.iter_raw()
            first = next(chunks)
            rest = sum(map(len, chunks))
            assert len(first) < 100_000 < rest
        with client.stream("POST", **request) as left:  # type: ignore[arg-type]
            next(left.iter_raw())
        assert client.post(**{**request, "json": {"input": ""}}).status_code == 400  # type: ignore[arg-type]
    eventually(lambda: len(usage(log)) == before + 3)
    lines = usage(log)[before:]
    (half,) = (line for line in lines if not line["client_stayed"])
    whole, refused = sorted((line for line in lines if line is not half), key=lambda line: line["status"])
    assert (whole["customer"], whole["chars"], whole["client_stayed"]) == ("globex", len(TEXT) * 8, "OK")
    assert whole["bytes"] > len(first) + rest
    assert whole["request_id"] == answer.headers["x-request-id"]
    assert (
        whole["request_id"] in pair.log.read_text()
    )  # tier 2's own line has seconds of audio, and those of sockets
    assert half["status"] in (200, 499)
    assert (refused["status"], refused["chars"]) == (400, 0)
    text = log.read_text()
    assert "KEY-OF" not in text
    assert "boat" not in text
