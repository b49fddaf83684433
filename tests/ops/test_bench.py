from __future__ import annotations

import json
import os
import re
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from starlette.responses import Response

from orpheus import embedded
from orpheus.errors import NotReady
from orpheus.ops.bench import bench, codec, rivals, show
from orpheus.ops.doctor.remote import wait_until_ready
from orpheus.settings import load_settings
from tests.support.asleep import asleep
from tests.support.command import orpheus
from tests.support.live import Pair, served


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STREAMS", (1, 2))
    monkeypatch.setattr(bench, "LEVEL_S", 0.1)
    monkeypatch.setattr(bench, "LOAD_CHARS", 60)


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_a_running_pair_is_measured_over_http_alone(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    result = bench.bench_url(pair.url, {}, said.append)
    one, two = result["speech"]["levels"]
    assert (one["streams"], two["streams"]) == (1, 2)
    assert 0 < one["first_byte_ms_p50"] <= one["first_sound_ms_p50"]
    assert one["times_real_time"] == pytest.approx(1 / one["real_time_factor_p50"], rel=0.8)
    assert "step_ms" not in one
    assert said
    show.show(result, Console(width=200))
    table = capsys.readouterr().out
    assert "streams at real time" in table
    assert "2 listeners at once: first byte" in table
    assert re.search(r"pauses between segments +\d+(, \d+)* ms", table)


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_steps_are_counted_where_tier_1_can_be_asked(pair: Pair) -> None:
    result = bench.measure_speech(pair.url, {}, pair.llama_url, lambda what: None)
    level = result["levels"][0]
    assert set(level["step_parts_ms"]) == {"plan", "decode", "copy", "sample", "publish"}
    assert level["step_ms"] == pytest.approx(sum(level["step_parts_ms"].values()), abs=0.01)
    assert level["step_ms"] > 0


def test_the_codec_costs_more_than_nothing_and_a_batch_less_than_one_by_one() -> None:
    cost = codec.codec_cost(embedded.CODEC, rounds=1)
    assert set(cost) == {"offline", "one_frame", "four_frames", "one_frame_of_8_streams"}
    assert all(0 < seconds < 10 for seconds in cost.values())


def test_a_rival_that_is_not_installed_is_a_line_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rivals, "SECONDS", 0.3)
    monkeypatch.setattr(rivals, "STREAMS", (1,))
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    found = rivals.measure_rivals(embedded.MODEL, 1, lambda what: None)
    assert found["ours"][0]["tokens_per_s"] > 0
    assert "orpheus-tts-pair[bench]" in found["llama_server"]


@pytest.mark.slow
def test_a_rival_that_answers_nothing_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that dies of its first request: zero tokens a second would look measured."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(rivals, "SECONDS", 0.3)
    server = SimpleNamespace(url=url, process=SimpleNamespace(pid=os.getpid()))
    monkeypatch.setattr(rivals, "completions_server", lambda *_: nullcontext(server))
    found = rivals.measure_rivals(embedded.MODEL, 1, lambda what: None)
    assert re.fullmatch(r"llama_server answered none of [1-9]\d* requests\.", found["llama_server"])


RESULT = {
    "date": "2026-11-21T00:00:00+00:00",
    "url": "http://x",
    "speech": {
        "levels": [
            {
                "streams": 1,
                "requests": 3,
                "first_byte_ms_p50": 40.0,
                "first_byte_ms_p99": 50.0,
                "first_sound_ms_p50": 70.0,
                "first_sound_ms_p99": 80.0,
                "real_time_factor_p50": 0.1,
                "times_real_time": 10.0,
            },
            {"streams": 4, "refused": "full"},
        ],
        "streams_at_real_time": 10.0,
        "listeners_in_real_time": 1,
        "underruns": 0,
        "longest_underrun_ms": 0,
        "pauses_ms": [300],
        "tier1_two_frames_ms": 50.0,
        "tier2_overhead_ms": 5.0,
    },
}


def test_results_are_written_and_drawn_or_a_line_says_how_to_draw_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = show.save(RESULT, tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == RESULT
    assert "pip install matplotlib" in said
    assert not (tmp_path / "bench.png").exists()
    show.show(RESULT, Console(width=200))
    assert "full" in capsys.readouterr().out


def test_a_picture_is_drawn_if_matplotlib_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "bench.png" in show.save(RESULT, tmp_path / "bench.json")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:1"], "nothing answers"),
        (["--url", "nonsense"], "write http://HOST:PORT"),
        (["--url", "http://x", "--model", "embedded"], "--url measures"),
        (["--out", "/no/such/bench.json"], "no folder"),
        (["--model", "/no/such.gguf"], "is not a file here"),
    ],
)
def test_what_cannot_be_measured_is_reported_in_a_sentence(arguments: list[str], says: str) -> None:
    done = orpheus("bench", *arguments)
    assert done.returncode in (1, 2), done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path.cwd().glob("*"))


def test_a_server_that_is_gone_is_an_error() -> None:
    with pytest.raises(NotReady, match="cannot be measured: nothing answers"):
        wait_until_ready("http://127.0.0.1:1", {}, 0, lambda what: None)


def test_a_pair_that_is_asleep_is_waited_for() -> None:
    said: list[str] = []
    with served(asleep([Response(status_code=503)] * 2)) as url:
        wait_until_ready(url, {}, 30, said.append)
    assert said == [f"503 from {url}, perhaps asleep: waiting for it"]


@pytest.mark.slow
def test_what_tier_2_adds_to_tier_1_is_measured_on_a_pair_that_trims_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench, "measure_speech", lambda *given: {})
    monkeypatch.setattr(bench, "ROUNDS", 2)
    result = bench.speech_here(load_settings(model="embedded", codec="embedded"), lambda what: None)
    assert 0 < result["tier1_two_frames_ms"] < 10_000
    assert -1000 < result["tier2_overhead_ms"] < 1000
