"""A name and a GGUF → a completions server in a process of its own: ours, llama_cpp.server, llama-server.

The rivals come from the `bench` extra (llama-cpp-python[server], xllamacpp); MissingRival says which is absent.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONTEXT_TOKENS = 512
NEEDS = {
    "ours": (),
    "llama_cpp_server": ("sse_starlette", "starlette_context"),
    "llama_server": ("xllamacpp",),
}

OURS = """
import sys, uvicorn
from pathlib import Path
from orpheus.llama.engine import Engine
from orpheus.llama.server import create_app
from orpheus.settings import Settings
model, port, streams, threads, context = sys.argv[1:]
settings = Settings(_env_file=None, streams=int(streams), context_tokens=int(context), threads=int(threads))
app = create_app(settings, lambda: Engine.load(Path(model), settings))
uvicorn.run(app, port=int(port), log_level="error", access_log=False)
"""
LLAMA_SERVER = """
import sys, time, xllamacpp
model, port, streams, threads, context = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel = model, int(port), int(streams)
params.n_ctx, params.cpuparams.n_threads = int(streams) * int(context), int(threads)
params.cpuparams_batch.n_threads = int(threads)
params.kv_unified = False
server = xllamacpp.Server(params)
while True:
    time.sleep(60)
"""


class MissingRival(Exception):
    """A rival's package is not installed."""


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """Processor seconds used so far, by all its threads (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve(name: str, model: Path, streams: int, threads: int) -> Iterator[Server]:
    """The server, once it answers at its completions URL."""
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            raise MissingRival(
                f"{name} is left out: pip install 'orpheus-tts-pair[bench]' (in a checkout '.[bench]') brings it."
            )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [str(model), str(port), str(streams), str(threads), str(CONTEXT_TOKENS)]
    command = [sys.executable, "-c", OURS if name == "ours" else LLAMA_SERVER, *options]
    if name == "llama_cpp_server":
        command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
        command += ["--n_ctx", str(CONTEXT_TOKENS), "--n_threads", str(threads), "--verbose", "False"]
        command += ["--interrupt_requests", "False"]  # else each new request cuts the one before off
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_answer(f"http://127.0.0.1:{port}", process, name)
        yield Server(f"http://127.0.0.1:{port}/v1/completions", process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(url: str, process: subprocess.Popen[bytes], name: str, limit_s: float = 60) -> None:
    path = "/v1/models" if name == "llama_cpp_server" else "/health"
    deadline = time.monotonic() + limit_s
    while True:
        try:
            with urllib.request.urlopen(url + path, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise MissingRival(f"{name} did not start.") from None
            time.sleep(0.1)
