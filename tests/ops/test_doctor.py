"""Each check against what it is there to find: true failures, provoked."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orpheus import embedded
from orpheus.ops.bench.listening import SENTENCE
from orpheus.ops.build import Plan
from orpheus.ops.doctor import check, local_checks, machine, remote, speech, tier1, weights
from orpheus.ops.doctor.check import Check, Finding, Waiting
from orpheus.ops.doctor.passages import PASSAGES
from orpheus.settings import REAL_CODEC, REAL_MODEL, Settings, load_settings
from orpheus.text.sentences import length
from orpheus.tts.served_model import ServedModel
from orpheus.vocabulary import END_OF_SPEECH, token_text
from orpheus.voices import Voice, published_voices
from tests.support.asleep import asleep
from tests.support.hub import COMMIT, Hub
from tests.support.live import ROOT, Pair, clean_environment, free_port, served
from tests.support.random_snac import save_random_snac
from tests.support.upstream import EMBEDDED, Upstream, event, frame_text, listed, whole


def settings(**options: object) -> Settings:
    return load_settings(**{"model": "embedded", "codec": "embedded", "port": free_port(), **options})


def of(findings: Iterator[Finding | Waiting], status: str) -> list[str]:
    return [finding.text for finding in findings if isinstance(finding, Finding) and finding.status == status]


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it; its checks take a minute on a busy machine."""
    return subprocess.run(
        [sys.executable, "-m", "orpheus", "doctor", *arguments],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.slow
def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (said,) = of(machine.ports(settings(port=port, llama_port=free_port())), "failed")
    assert f"Cannot listen on 127.0.0.1:{port}" in said
    assert "ORPHEUS_PORT" in said


def test_a_port_with_orpheus_on_it_is_not_a_failure(pair: Pair) -> None:
    llama_port, port = (int(url.rsplit(":", 1)[1]) for url in (pair.llama_url, pair.url))
    findings = list(machine.ports(settings(port=port, llama_port=llama_port)))
    assert [finding.status for finding in findings] == ["passed", "passed"]
    assert "running tier 2" in findings[0].text


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not of(machine.packages(), "failed")
    found = machine.importlib.metadata.version

    def version(name: str) -> str:
        if name == "httpx":
            raise machine.importlib.metadata.PackageNotFoundError(name)
        return {"torch": "1.0", "llama-cpp-python": "0.1.0"}.get(name, found(name))

    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    assert any("torch is 1.0, tested with" in said for said in of(machine.packages(), "warning"))
    failures = of(machine.packages(), "failed")
    assert any("llama-cpp-python is 0.1.0" in said for said in failures)
    assert any("httpx is not installed: pip install httpx==" in said for said in failures)


def test_an_installed_package_is_checked_without_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {tier: project["optional-dependencies"][tier] for tier in machine.TIERS}
    told = tmp_path / f"{machine.DISTRIBUTION.replace('-', '_')}-0.1.0.dist-info" / "METADATA"
    told.parent.mkdir()
    required = [
        *project["dependencies"],
        *(f'{line}; extra == "{tier}"' for tier, lines in extras.items() for line in lines),
    ]
    lines = [f"Requires-Dist: {line}" for line in (*required, 'nowhere; extra == "dev"')]
    told.write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {machine.DISTRIBUTION}", "Version: 0.1.0", *lines])
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(machine, "CHECKOUT", tmp_path)  # no pyproject.toml, no constraints.txt
    found = machine.importlib.metadata.version
    monkeypatch.setattr(
        machine.importlib.metadata, "version", lambda name: "9.9+cpu" if name == "torch" else found(name)
    )
    (finding,) = machine.packages()
    assert finding == check.passed(
        f"{len(required)} installed, 1 of them pinned"
    )  # llama.cpp, which asks for it


def test_a_wheel_has_every_file_of_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    kept = {
        path
        for name, globs in data.items()
        for glob in globs
        for path in (ROOT / name.replace(".", "/")).glob(glob)
    }
    files = {
        path for path in (ROOT / "orpheus").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in files - kept if path.suffix != ".py"} == set()


def test_too_little_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_free_bytes", lambda: 1 << 20)
    (said,) = of(machine.memory(settings()), "failed")
    assert "0.0 GiB free" in said
    assert "smaller quantisation" in said


def test_the_model_of_a_folder_takes_what_its_file_does(tmp_path: Path) -> None:
    with (tmp_path / "voice.gguf").open("wb") as file:
        file.write(b"GGUF\3\0\0\0")
        file.truncate(3 << 40)
    (said,) = of(machine.memory(settings(model=str(tmp_path))), "failed")
    assert "takes about 3993.6" in said


@pytest.mark.parametrize(
    ("plan", "checkout", "status", "says"),
    [
        (Plan("cpu", ()), True, "passed", "no GPU"),
        (Plan("cpu", (), "The GPU stays unused, as glslc is missing."), True, "warning", "glslc is missing"),
        (Plan("cuda", ("-DGGML_CUDA=ON",)), True, "warning", "without cuda: make serve GPU=cuda"),
        (Plan("custom", ("-DGGML_SYCL=ON",)), True, "passed", "as CMAKE_ARGS says"),
        (Plan("cuda", ("-DGGML_CUDA=ON",), cuda_packages=True), False, "warning", "make serve in a checkout"),
        (Plan("cuda", ("-DGGML_CUDA=ON", "-DA=86;89")), False, "warning", "CMAKE_ARGS='-DGGML_CUDA=ON '"),
    ],
)
def test_a_gpu_that_is_not_used_says_why_and_what_changes_that(
    plan: Plan, checkout: bool, status: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine.build, "find", lambda *_: plan)
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: None)
    if not checkout:
        monkeypatch.setattr(machine, "CHECKOUT", tmp_path)
        monkeypatch.setattr(machine, "_requirements", lambda: ["llama-cpp-python==0.3.36"])
    (*_, found) = machine.memory(settings(gpu_layers=-1))
    assert found.status == status
    assert says in found.text
    assert "custom" not in found.text


def test_a_gpu_that_is_not_to_be_used_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.build, "find", lambda *_: Plan("cuda", ("-DGGML_CUDA=ON",)))
    (*_, found) = machine.memory(settings(gpu_layers=0))
    assert found == check.passed("no GPU is used, as ORPHEUS_GPU_LAYERS=0 asks")


def test_a_hub_that_cannot_be_reached_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    failures = of(machine.hub(settings(model=REAL_MODEL, codec=REAL_CODEC)), "failed")
    assert len(failures) == 2
    assert "cannot be reached" in failures[0]
    kept = tmp_path / ("models--" + REAL_MODEL.replace("/", "--")) / "snapshots"
    kept.mkdir(parents=True)
    (said,) = of(machine.hub(settings(model=REAL_MODEL)), "warning")
    assert "the copy that is kept here is used" in said


@pytest.fixture
def hub_environment(tmp_path: Path) -> Iterator[tuple[Hub, dict[str, str]]]:
    hub = Hub()
    codec = {file.name: file.read_bytes() for file in embedded.CODEC.iterdir()}
    hub.files = {REAL_MODEL: {REAL_MODEL.split("/")[1]: embedded.MODEL.read_bytes()}, REAL_CODEC: codec}
    with served(hub.app) as url:
        yield (
            hub,
            {
                "HF_ENDPOINT": url,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
                "ORPHEUS_PORT": str(free_port()),
                "ORPHEUS_LLAMA_PORT": str(free_port()),
            },
        )


@pytest.mark.slow
def test_real_fetches_the_published_weights_and_checks_them(
    hub_environment: tuple[Hub, dict[str, str]],
) -> None:
    hub, environment = hub_environment
    done = doctor("--real", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{REAL_MODEL} can be fetched, at commit {COMMIT[:12]}" in done.stdout
    assert f"{REAL_CODEC}/pytorch_model.bin" in hub.asked
    lines = [
        line for line in done.stdout.splitlines() if " listeners " not in line
    ]  # a busy machine has gaps
    assert not [line for line in lines if line.startswith(("failed", "skipped"))]
    assert {line.split()[1] for line in lines if line.startswith("passed")} == {
        *("python", "compiler", "packages", "ports", "memory", "hub", "fetch", "model", "codec", "fit"),
        *("engine", "exactness", "capacity", "seam", "voices"),
    }
    assert done.stdout.count(", as on the hub") == 3
    assert "leaving cancels" in done.stdout


@pytest.mark.slow
def test_real_without_the_repository_fails_and_checks_the_rest(
    hub_environment: tuple[Hub, dict[str, str]],
) -> None:
    hub, environment = hub_environment
    hub.files.clear()
    done = doctor("--real", **environment)
    assert done.returncode == 1
    assert "nor a repository that you can access" in done.stdout
    assert "skipped  engine     needs fetch, which failed." in done.stdout
    assert "passed   python" in done.stdout


def test_a_damaged_copy_from_the_hub_is_recognized_by_its_hash(tmp_path: Path) -> None:
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(embedded.MODEL.read_bytes()[:-1] + b"?")
    model = tmp_path / "model.gguf"
    model.symlink_to(blob)
    (said, *_) = of(weights.model(settings(model=str(model))), "failed")
    assert "damaged. Delete" in said


@pytest.mark.parametrize("damage", ["text", "cut", "garbage"])
def test_a_broken_model_is_one_failed_line(tmp_path: Path, damage: str) -> None:
    data = embedded.MODEL.read_bytes()
    broken = {"text": b"<html>", "cut": data[: len(data) // 2], "garbage": b"GGUF\x03\0\0\0" + b"\xff" * 4096}
    path = tmp_path / "broken.gguf"
    path.write_bytes(broken[damage])
    findings = check_lines(partial(weights.model, settings(model=str(path))))
    (finding,) = [finding for finding in findings if finding.status == "failed"]
    assert "broken.gguf" in finding.text


def test_a_codec_without_a_tensor_fails(tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "snac"
    shutil.copytree(embedded.CODEC, folder)
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(dict(list(tensors.items())[:-3]), folder / "pytorch_model.bin")
    (finding,) = check_lines(partial(weights.codec, settings(codec=str(folder))))[-1:]
    assert finding.status == "failed"
    assert "does not fit" in finding.text


def test_a_codec_of_another_model_fails(tmp_path: Path) -> None:
    folder = save_random_snac(tmp_path / "snac")
    (said,) = of(weights.fit(settings(codec=str(folder))), "failed")
    assert "4096 codes, the codec knows 16" in said


def test_sound_that_differs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from orpheus.codec.offline import OfflineDecoder

    decode = OfflineDecoder.decode
    monkeypatch.setattr(OfflineDecoder, "decode", lambda *all, **more: decode(*all, **more) + 0.01)
    (said,) = of(weights.exactness(settings()), "failed")
    assert "1.0e-02 of full scale" in said


def test_an_engine_below_real_time_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier1, "TOKENS_PER_S", 1e7)
    monkeypatch.setattr(tier1, "MEASURE_S", 0.2)
    findings = list(tier1.engine(settings(streams=2, gpu_layers=0)))
    assert "on the processor; one stream: " in findings[0].text
    assert "speech will break off" in findings[0].text


@pytest.mark.parametrize("slow", ["tier 1", "the codec"])
def test_the_slower_tier_is_the_bottleneck_and_says_how_many_streams_it_carries(
    slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier1, "MEASURE_S", 0.2)
    if slow == "tier 1":
        monkeypatch.setattr(tier1, "TOKENS_PER_S", 1e7)
    else:
        monkeypatch.setattr(tier1, "_codec_carries", lambda *_: ("cpu", 0.5))
    engine, codec, both = tier1.capacity(settings(streams=2, gpu_layers=0))
    assert re.search(r"tier 1, on the processor: 2 streams make \d+ tokens a second", engine.text)
    assert re.search(r"codec, on cpu: real time for \d+ streams", codec.text)
    assert both.status == "warning"
    assert f"0 streams in real time, sharing the processor; the bottleneck is {slow}" in both.text
    assert "ORPHEUS_STREAMS=1" in both.text


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, Settings]]:
    upstream = Upstream()
    with served(upstream.app) as url:
        yield upstream, settings(llama_endpoint=url)
        upstream.go_on.set()


def test_a_tier_1_that_ignores_stop_fails(upstream: tuple[Upstream, Settings]) -> None:
    server, at = upstream
    server.events = [event(frame_text()), event(token_text(END_OF_SPEECH)), *[event(frame_text())] * 230]
    (said,) = of(tier1.seam(at), "failed")
    assert "the end of speech does not end it" in said
    assert server.requests[0]["stop"] == [token_text(END_OF_SPEECH)]


def test_a_tier_1_without_special_tokens_fails(upstream: tuple[Upstream, Settings]) -> None:
    server, at = upstream
    server.events = [event("") for _ in range(20)] + [event(reason="stop"), "data: [DONE]\n\n"]
    (said,) = of(tier1.seam(at), "failed")
    assert "sends no audio tokens" in said


def test_a_silent_tier_1_fails_in_time(
    upstream: tuple[Upstream, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier1, "STALL_TIMEOUT_S", 0.3)
    server, at = upstream
    server.hang_after = 1
    (said,) = of(tier1.seam(at), "failed")
    assert "sent nothing for 0.3 s" in said


def test_a_tier_1_with_another_name_for_its_model_fails(upstream: tuple[Upstream, Settings]) -> None:
    server, at = upstream
    server.answer = JSONResponse({"error": {"message": "no model orpheus"}}, 404)
    _, finding = check_lines(partial(tier1.seam, at))
    assert finding.status == "failed"
    assert "no model orpheus" in finding.text
    assert "ORPHEUS_MODEL_NAME" in finding.text


def test_frames_out_of_order_and_missing_metrics_are_warnings(upstream: tuple[Upstream, Settings]) -> None:
    server, at = upstream
    server.events = [event(token_text(12)), *whole()]
    warnings = of(tier1.seam(at), "warning")
    assert "out of order" in warnings[0]
    assert "cannot see whether leaving cancels" in warnings[1]


def test_a_tier_1_that_keeps_generating_without_its_client_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    running = 0

    async def complete(request: Request) -> Response:
        nonlocal running
        text = (await request.json())["prompt"]
        running += text.count(SENTENCE) > 1  # the long one: never ended by this server

        async def events() -> AsyncIterator[str]:
            for line in whole():
                yield line

        return StreamingResponse(events())

    async def metrics(request: Request) -> Response:
        return Response(f'vllm:num_requests_running{{model="orpheus"}} {running}.0\n')

    monkeypatch.setattr(tier1, "CANCEL_S", 0.3)
    app = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"]), Route("/metrics", metrics)])
    with served(app) as url:
        (said,) = of(tier1.seam(settings(llama_endpoint=url)), "failed")
    assert "whose client left goes on" in said


def test_of_a_tier_1_elsewhere_only_its_codec_is_checked(upstream: tuple[Upstream, Settings]) -> None:
    """On a laptop whose own default is the embedded voice."""
    server, _ = upstream
    with served(server.app) as url:
        checks = {one.name: one for one in local_checks(load_settings(llama_endpoint=url), thorough=True)}
        assert {"model", "fit", "engine", "listeners"}.isdisjoint(checks)
        look: Any = checks["exactness"].look
        assert look.args[0].codec == REAL_CODEC
        server.models = listed(**EMBEDDED)
        look = local_checks(load_settings(llama_endpoint=url))[-1].look
        assert look.args[0].codec == "embedded"
        assert "model" in {one.name for one in local_checks(settings(llama_endpoint=url))}


def test_nothing_at_the_endpoint_fails() -> None:
    (said,) = of(tier1.seam(settings(llama_endpoint=f"http://127.0.0.1:{free_port()}")), "failed")
    assert "cannot be reached" in said


def with_lead(db: float, seconds: float = 0.55) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Noise of so many dB, and then a voice."""
    random = np.random.default_rng(0)
    quiet = random.standard_normal(round(seconds * 24_000)) * 10 ** (db / 20)
    voice = np.sin(np.arange(24_000) * 0.05) * 0.2
    return np.concatenate([quiet, voice]).astype(np.float32)


@pytest.mark.parametrize(("db", "left_ms"), [(-70, 0), (-52, 0), (-41, 500)])
def test_a_lead_in_that_is_not_silent_enough_to_be_trimmed_is_told(db: float, left_ms: float) -> None:
    lead = speech.lead_in(with_lead(db), 24_000)
    assert lead is not None
    assert lead.raw_s == pytest.approx(0.5, abs=0.02)
    assert lead.loudest_db == pytest.approx(db, abs=2)
    assert lead.left_s * 1000 == pytest.approx(left_ms, abs=100)
    (finding,) = speech._lead_ins({"tara": lead})
    assert (finding.status == "warning") is (left_ms > 0)
    assert f"{lead.loudest_db:.0f} dB" in finding.text


def test_without_a_word_there_is_no_lead_in() -> None:
    assert speech.lead_in(np.zeros(24_000, np.float32), 24_000) is None
    assert [finding.status for finding in speech._lead_ins({})] == ["failed"]


def test_a_voice_that_does_not_end_is_named(upstream: tuple[Upstream, Settings]) -> None:
    server, at = upstream
    server.events = [*whole(20)[:-2], event(reason="length"), "data: [DONE]\n\n"]
    warnings = of(speech.voices(at), "warning")
    assert [said.split(":")[0] for said in warnings][:2] == ["tara", "leah"]
    assert "140 tokens, and did not end" in warnings[0]
    assert "Set ORPHEUS_CONTEXT_TOKENS to 2560" in warnings[0]


@pytest.mark.parametrize(
    "voice",
    [
        *(published_voices((language,)).default for language in PASSAGES),
        Voice("layla", "ar"),
        Voice("yuki", "ja"),
        Voice("ka-ming", "yue", sample="你好，今日天氣好好。"),
    ],
    ids=lambda voice: voice.language,
)
def test_the_longest_segment_is_nearly_as_long_as_allowed_and_in_the_voices_language(voice: Voice) -> None:
    model = ServedModel(REAL_MODEL, vocabulary=156_940)
    segment = speech.longest_segment(voice, model)
    assert 0.8 * model.segment_chars < length(segment) <= model.segment_chars
    assert voice.language in PASSAGES or not segment.isascii()


@pytest.mark.slow
def test_a_running_pair_passes_from_outside(pair: Pair) -> None:
    done = doctor("--url", pair.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/v1/audio/speech/stream/ws: " in done.stdout
    assert "/v1/audio/speech/stream: " in done.stdout
    assert "first byte after" in done.stdout


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "nothing answers"),
        ("nonsense", "cannot be asked"),
        ("ftp://127.0.0.1", "cannot be asked"),
        ("http://127.0.0.1:notaport", "cannot be asked"),
    ],
)
def test_a_dead_or_invalid_url_fails_and_skips_the_rest(url: str, says: str) -> None:
    done = doctor("--url", url)
    assert done.returncode == 1, done.stdout
    assert says in done.stdout
    assert "skipped  sockets" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_url_that_is_not_orpheus_fails(pair: Pair) -> None:
    async def page(request: Request) -> Response:
        return Response("<html>Welcome</html>")

    with served(Starlette(routes=[Route("/{path:path}", page)])) as url:
        assert "is no Orpheus" in of(remote.server(url, {}), "failed")[0]
    assert "is tier 1" in of(remote.server(pair.llama_url, {}), "failed")[0]


def _proxy(target: str) -> Starlette:
    """A proxy that passes HTTP on alone, each answer once it has all of it."""

    async def pass_on(request: Request) -> Response:
        async with httpx.AsyncClient(base_url=target, trust_env=False, timeout=60) as client:
            answer = await client.request(
                request.method,
                request.url.path,
                content=await request.body(),
                headers={"content-type": "application/json"},
            )
            return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

    return Starlette(routes=[Route("/{path:path}", pass_on, methods=["GET", "POST"])])


def test_a_proxy_without_websockets_fails(pair: Pair) -> None:
    with served(_proxy(pair.url)) as url:
        assert not of(remote.server(url, {}), "failed")
        failures = of(remote.sockets(url, {}), "failed")
    assert len(failures) == 2
    assert all("proxy_set_header Upgrade" in said for said in failures)


def test_a_proxy_that_buffers_responses_fails(pair: Pair) -> None:
    with served(_proxy(pair.url)) as url:
        (said,) = of(remote.speech(url, {}), "failed")
    assert "proxy_buffering off" in said


def test_a_missing_key_is_reported_and_a_given_one_is_used() -> None:
    async def voices(request: Request) -> Response:
        known = request.headers.get("x-api-key") == "secret"
        return JSONResponse({"voices": []}, 200 if known else 401)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ready", "reason": None, "codec": {}})

    with served(Starlette(routes=[Route("/v1/audio/voices", voices), Route("/health", health)])) as url:
        assert "wants a key" in of(remote.server(url, {}), "failed")[0]
        assert not of(remote.server(url, settings(api_keys="secret, other").client_headers), "failed")


def _not_ready(state: str) -> Response:
    return JSONResponse({"status": state, "reason": "The codec.", "codec": {}}, 503)


@pytest.mark.slow
def test_a_service_that_is_asleep_is_waited_for() -> None:
    empty, later = Response(status_code=503), Response(status_code=503, headers={"retry-after": "1"})
    with served(asleep([empty, later, Response(status_code=502), _not_ready("not ready")])) as url:
        waiting, ready, voices = remote.server(url, {}, cold_wait_s=30)
    assert waiting == Waiting(f"503 from {url}, perhaps asleep: waiting for it")
    assert isinstance(ready, Finding)
    assert ready.status == "passed"
    assert re.search(r"is ready, and answered in \d+ ms; before that, \d+ s of 503$", ready.text)
    assert voices == check.passed("2 voices")


@pytest.mark.slow
def test_a_service_that_is_silent_while_it_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LIMIT_S", 0.6)
    with served(asleep([1.0, 1.0])) as url:
        waiting, ready, _ = remote.server(url, {}, cold_wait_s=30)
        assert waiting == Waiting(f"silence from {url}, perhaps asleep: waiting for it")
        assert isinstance(ready, Finding)
        assert ready.status == "passed"
    with served(asleep([1.0])) as url:
        (said,) = of(remote.server(url, {}), "failed")  # of this machine: nothing sleeps here
        assert "does not answer within 0 s: is a firewall" in said


def test_refused_connections_are_retried_for_a_while() -> None:
    port = free_port()
    findings = remote.server(f"http://127.0.0.1:{port}", {}, cold_wait_s=30)
    waiting = next(findings)
    assert isinstance(waiting, Waiting)
    assert waiting.for_what.startswith("refused connections")
    with served(asleep([]), port):
        assert [getattr(finding, "status", None) for finding in findings] == ["passed", "passed"]


def test_the_wait_for_a_service_that_never_wakes_ends() -> None:
    with served(asleep([Response(status_code=503)] * 100)) as url:
        (said,) = of(remote.server(url, {}, cold_wait_s=0.5), "failed")
        assert "answers 503 to /health" in said
        assert "ORPHEUS_COLD_WAIT_S waits longer" in said
    with served(asleep([_not_ready("failed")] * 2)) as url:
        (said,) = of(remote.server(url, {}, cold_wait_s=600), "failed")
        assert "is failed: The codec." in said
    with served(asleep([Response(status_code=401)] * 2)) as url:
        assert "ORPHEUS_PROXY_KEY" in of(remote.server(url, {}, cold_wait_s=600), "failed")[0]


@pytest.mark.slow
def test_the_command_says_what_it_waits_for() -> None:
    with served(asleep([Response(status_code=503)] * 3)) as url:
        done = doctor("--url", url, ORPHEUS_COLD_WAIT_S="60")
    assert re.search(
        r"^… server: 503 from http://\S+ perhaps asleep: waiting for it, \d+ s of", done.stderr, re.M
    )
    assert "passed   server     2 voices" in done.stdout
    assert "skipped" not in done.stdout


def check_lines(look: object, limit_s: float = 60) -> list[Finding]:
    return list(check.run(Check("x", look, limit_s), lambda took_s, waits_for: None))  # type: ignore[arg-type]


def _hangs() -> Iterator[Finding]:
    yield check.passed("begun")
    time.sleep(600)


def _crashes() -> Iterator[Finding]:
    yield check.passed("begun")
    os.kill(os.getpid(), signal.SIGABRT)


def _raises() -> Iterator[Finding]:
    raise ValueError("one\ntwo")
    yield


@pytest.mark.slow
def test_a_check_that_hangs_is_stopped_in_time() -> None:
    began = time.monotonic()
    findings = check_lines(_hangs, 12)
    assert [finding.status for finding in findings] == ["passed", "failed"]
    assert "no answer within 12 s" in findings[1].text
    assert time.monotonic() - began < 60


def test_a_check_that_crashes_or_raises_is_one_failed_line() -> None:
    findings = check_lines(_crashes)
    assert [finding.status for finding in findings] == ["passed", "failed"]
    assert "SIGABRT" in findings[1].text
    (finding,) = check_lines(_raises)
    assert finding == Finding("failed", "ValueError: one")


def test_url_and_real_exclude_each_other() -> None:
    done = doctor("--url", "http://127.0.0.1:1", "--real")
    assert done.returncode == 1
    assert "--url checks a running pair" in done.stderr
