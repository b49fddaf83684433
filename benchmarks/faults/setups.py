"""Set-ups that cannot work, or should work all the same: one sentence and exit code 2, or speech."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from benchmarks.faults.broken_tier1 import FAULTS, BrokenTier1
from benchmarks.faults.stage import Case, Stage, environment
from orpheus import embedded
from orpheus.http.process import free_port
from orpheus.hub import STALL_S

AT_ONCE = 3
ENDS_S = 60.0  # a command that is to fail, on a busy machine
HUB_S = STALL_S + 20.0
SERVE_S = 90.0
COMMAND = [
    sys.executable,
    "-P",
    "-m",
    "orpheus",
]  # -P as in the installed command: no module of the working directory


def cases() -> Iterator[Case]:
    yield from _hubs()
    yield from _settings()
    yield from _codecs()
    yield from _models()
    for lost in ("reader", "disk"):
        yield Case("set-up", f"the log has lost its {lost}", _without_log(lost))
    for after_s in (0.15, 0.2, 0.4, 0.7, 1.0, 1.5):
        for number in (signal.SIGINT, signal.SIGTERM):
            yield Case("set-up", f"{number.name} after {after_s:g} s", _interrupted(after_s, number))
    for command in ("serve", "say"):
        yield Case("working directory", f"modules in the way of {command}", _modules_in_the_way(command))
    yield Case("set-up", "a port that is taken", _taken_port)
    yield Case("set-up", "a .env that is not UTF-8", _wrong_dotenv)


def _ended(
    arguments: list[str], settings: Mapping[str, str], cwd: Path, within_s: float = ENDS_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment(), **settings},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


def _fails(
    arguments: list[str],
    settings: Mapping[str, str],
    says: str,
    prepare: Callable[[Path], object] = lambda folder: None,
    within_s: float = ENDS_S,
) -> Callable[[Stage], str | None]:
    """With exit code 2 and a sentence. `prepare` fills the working directory."""

    def run(stage: Stage) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            done = _ended(arguments, {**settings, "HF_HOME": f"{folder}/hf"}, Path(folder), within_s)
        if "Traceback" in done.stderr:
            return "it printed a traceback"
        if done.returncode != 2:
            return f"its exit code is {done.returncode}: {done.stderr[-200:]}"
        return None if says in done.stderr else f"it does not say {says!r}: {done.stderr[-200:]}"

    return run


# Settings


def _settings() -> Iterator[Case]:
    for name, value in {
        "CONTEXT_TOKENS": str(2**30),
        "STREAMS": str(2**32 + 1),
        "THREADS": "99999",
        "GPU_LAYERS": str(2**40),
        "MAX_TOKENS": str(2**40),
        "DRAIN_S": "1" + "0" * 20,
        "COLD_WAIT_S": "inf",
        "PORT": "99999",
        "API_KEYS": " , ",
        "LLAMA_ENDPOINT": "ftp://u:open-sesame@h",
        "TEMPERATURE": "nan",
        "MAX_REQUESTS": "9" * 5000,
    }.items():
        setting = f"ORPHEUS_{name}"
        yield Case("set-up", f"{setting}={value[:24]}", _fails(["serve"], {setting: value}, setting))
    yield Case(
        "secrets", "a wrong address does not tell its password", _tells_no_password("ftp://u:open-sesame@h")
    )


def _tells_no_password(address: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            done = _ended(["serve"], {"ORPHEUS_LLAMA_ENDPOINT": address}, Path(folder))
        return "it is printed" if "open-sesame" in done.stdout + done.stderr else None

    return run


def _taken_port(stage: Stage) -> str | None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        return _fails(["serve", "--port", port, "--llama-port", "0"], {}, port)(stage)


def _wrong_dotenv(stage: Stage) -> str | None:
    def prepare(folder: Path) -> None:
        (folder / ".env").write_bytes("ORPHEUS_MODEL=/home/andré/voice.gguf\n".encode("latin-1"))

    return _fails(["serve"], {}, "UTF-8", prepare)(stage)


# Weights


def _codecs() -> Iterator[Case]:
    def config(**changes: object) -> Callable[[Path], None]:
        def damage(folder: Path) -> None:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

        return damage

    def weights(content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / "pytorch_model.bin").write_bytes(content)

    damages: dict[str, Callable[[Path], object]] = {
        "weights of text": weights(b"weights, they said"),
        "no weights": weights(b""),
        "a page for weights": weights(b"<html>"),
        "a pickle that runs code": weights(b"cbuiltins\nprint\n."),
        "a deep pickle": weights(b"(" * 10_000),
        "infinite weights": _infinite,
        "a deep configuration": lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "a configuration that is not UTF-8": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
        "no configuration": lambda folder: (folder / "config.json").unlink(),
        "sampling_rate 0": config(sampling_rate=0),
        "an infinite sampling_rate": config(sampling_rate=float("inf")),
        "a decoder_dim of 2^70": config(decoder_dim=2**70),
        "decoder_rates of text": config(decoder_rates="8842"),
    }
    for name, damage in damages.items():

        def prepare(folder: Path, damage: Callable[[Path], object] = damage) -> None:
            damage(Path(shutil.copytree(embedded.CODEC, folder / "codec")))

        run = _fails(["speech", "--port", "0"], {"ORPHEUS_CODEC": "./codec"}, "codec", prepare)
        yield Case("set-up", f"a codec with {name}", run)


def _infinite(folder: Path) -> None:
    import torch

    path = folder / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save({name: tensor / 0 for name, tensor in tensors.items()}, path)


def _models() -> Iterator[Case]:
    start = embedded.MODEL.read_bytes()[: 1 << 20]
    contents = {
        "text": b"not a model",
        "nothing": b"",
        "its first megabyte": start,
        "a version from the future": start[:4] + b"\xff\xff\xff\x7f" + start[8:],
        "zeros after its head": start[:64] + bytes(1 << 20),
    }
    for name, content in contents.items():

        def prepare(folder: Path, content: bytes = content) -> None:
            (folder / "wrong.gguf").write_bytes(content)

        run = _fails(["llama", "--port", "0"], {"ORPHEUS_MODEL": "./wrong.gguf"}, "wrong.gguf", prepare)
        yield Case("set-up", f"a model of {name}", run)


# The hub


def _hubs() -> Iterator[Case]:
    for name in ("silent", "slow headers", "closes at once", "no HTTP", "answers 500", "a slow 500"):
        yield Case("hub", name, _given_up(name))


def _given_up(fault: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with BrokenTier1().served() as hub:
            hub.health = FAULTS[fault].play
            settings = {"HF_ENDPOINT": hub.url, "ORPHEUS_MODEL": "some/one:only.gguf"}
            try:
                return _fails(["llama", "--port", "0"], settings, "some/one", within_s=HUB_S)(stage)
            except subprocess.TimeoutExpired:
                return f"it still waits after {HUB_S:g} s"

    return run


# Servers


@contextlib.contextmanager
def _serving(
    folder: Path, output: int, settings: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", str(port), "--llama-port", "0"],
        env={**os.environ, **environment(), **settings},
        cwd=folder,
        stdout=output,
        stderr=output,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _speaks(process: subprocess.Popen[bytes], url: str) -> str | None:
    until_s = time.monotonic() + SERVE_S
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        while time.monotonic() < until_s:
            if process.poll() is not None:
                return f"it ended with exit code {process.returncode}"
            with contextlib.suppress(httpx.TransportError):
                if client.post("/v1/audio/speech", json={"input": "Hello."}).status_code == 200:
                    return None
            time.sleep(0.2)
    return f"it did not speak within {SERVE_S:g} s"


def _without_log(lost: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        read, write = os.pipe()
        os.close(read)
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            output = full if lost == "disk" else write
            with (
                tempfile.TemporaryDirectory() as folder,
                _serving(Path(folder), output, {}) as (process, url),
            ):
                return _speaks(process, url) or _speaks(process, url)
        finally:
            os.close(full)
            os.close(write)

    return run


def _interrupted(after_s: float, number: signal.Signals) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--llama-port", "0"],
            env={**os.environ, **environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(after_s)
        process.send_signal(number)
        _, printed = process.communicate(timeout=30)
        if "Traceback" in printed:
            return f"it printed a traceback: {printed[-200:]}"
        wanted = (0, 130, -number)
        return None if process.returncode in wanted else f"its exit code is {process.returncode}"

    return run


def _modules_in_the_way(command: str) -> Callable[[Stage], str | None]:
    def run(stage: Stage) -> str | None:
        with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as output:
            folder = Path(name)
            for module in ("orpheus", "numpy", "fastapi", "typing", "json"):
                (folder / f"{module}.py").write_text("raise SystemExit('this file was run')")
            if command == "say":
                done = _ended(["say", "Hello.", "--out", "hello.wav"], {}, folder, SERVE_S)
                spoke = (folder / "hello.wav").exists()
                return None if spoke else f"it did not speak: {done.stderr[-200:]}"
            with _serving(folder, output.fileno(), {}) as (process, url):
                problem = _speaks(process, url)
            output.seek(0)
            return "a file of the working directory was run" if b"was run" in output.read() else problem

    return run
