"""The alert rules under promtool, and every query of the dashboard in a real Prometheus that scrapes a live pair."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets
import yaml

from tests.support.live import ROOT, Pair, free_port, running_pair
from tests.support.waiting import eventually

FOLDER = ROOT / "deploy/observe"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())
QUERIES = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]
needs_prometheus = pytest.mark.skipif(not shutil.which("promtool"), reason="prometheus is not installed")


def alerts() -> list[dict[str, Any]]:
    (group,) = RULES["groups"]
    return [rule for rule in group["rules"] if "alert" in rule]


def expressions() -> list[str]:
    (group,) = RULES["groups"]
    return [*(rule["expr"] for rule in group["rules"]), *(query for _, query in QUERIES)]


@needs_prometheus
@pytest.mark.parametrize(
    "words", [["test", "rules", "rules_test.yaml"], ["check", "rules", "rules.yaml"], ["check", "config", "prometheus.yaml"]]
)  # fmt: skip
def test_promtool_is_content(words: list[str]) -> None:
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["action"].endswith(".")
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_metric_that_is_asked_for_exists() -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference.md").read_text(), re.MULTILINE))
    known |= {rule["record"] for rule in RULES["groups"][0]["rules"] if "record" in rule} | {"up"}
    for expression in expressions():
        for name in re.findall(r"\b((?:orpheus|process)[\w:]*)\b(?!-)", re.sub(r"\{[^}]*\}", "", expression)):
            assert name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known, name


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_pair(tmp_path_factory.mktemp("pair"), command="talk", ORPHEUS_CACHE="memory:") as pair:
        yield pair


@pytest.fixture(scope="module")
def prometheus(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that scrapes the pair every second, with the shipped rules."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(FOLDER / "rules.yaml")]
    for job, url in zip(configuration["scrape_configs"], (pair.llama_url, pair.url), strict=True):
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def speak(pair: Pair, text: str, **more: Any) -> bytes:
    body = {"input": text, "voice": "tara", "response_format": "pcm"} | more
    return httpx.post(f"{pair.url}/v1/audio/speech", json=body, timeout=60, trust_env=False).content


async def converse(pair: Pair, question: bytes) -> None:
    """One spoken turn."""
    url = pair.url.replace("http", "ws", 1) + "/v1/realtime"
    async with asyncio.timeout(60), websockets.connect(url, proxy=None) as socket:
        sound = question + bytes(48_000)
        for start in range(0, len(sound), 9600):
            audio = base64.b64encode(sound[start : start + 9600]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        async for message in socket:
            if json.loads(message)["type"] == "response.done":
                return


def answers(url: str, query: str) -> list[Any]:
    response = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False, timeout=10).json()
    assert response["status"] == "success", response
    return [
        sample for sample in response["data"]["result"] if sample["value"][1] not in ("NaN", "+Inf", "-Inf")
    ]


@needs_prometheus
@pytest.mark.slow
def test_every_query_of_the_dashboard_and_every_rule_has_data(pair: Pair, prometheus: str) -> None:
    records = [rule["record"] for rule in RULES["groups"][0]["rules"] if "record" in rule]
    wanted = [query.replace("$__rate_interval", "1m") for _, query in QUERIES] + records
    deadline = time.monotonic() + 90
    question = speak(pair, "What is the capital of France?")
    asyncio.run(converse(pair, question))
    eventually(lambda: answers(prometheus, "orpheus_agent_turns_total"))  # a rate is of two scrapes
    asyncio.run(converse(pair, question))
    while missing := [query for query in wanted if not answers(prometheus, query)]:
        assert time.monotonic() < deadline, missing
        speak(pair, "The boat drifted slowly down the river.")
        speak(pair, "Hello.", seed=1)
        time.sleep(0.5)


def test_dashboard_panels_do_not_overlap_and_explain_themselves() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
