"""Completions servers under load: tier 1 beside the rivals that can be installed, in tokens per second.

The rivals come with the `bench` extra: llama-cpp-python[server] and xllamacpp, which is llama-server.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from orpheus.errors import OrpheusError
from orpheus.http.process import free_port
from orpheus.ops.bench.listening import SENTENCE
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.prompt import turn_text
from orpheus.vocabulary import SLOTS

NEEDS = {
    "ours": (),
    "llama_cpp_server": ("sse_starlette", "starlette_context"),
    "llama_server": ("xllamacpp",),
}
WHOLE_HEAD = "ours_whole_head"  # tier 1 with all rows of the output matrix
STREAMS = (1, 8)
SECONDS = 4.0
WARM_S = 0.5  # of load before anything is counted
IDLE_S = 0.2  # between two looks at whether a server computes
START_S = 60.0
STOP_S = 10.0
CONTEXT_TOKENS = 512
BODY: dict[str, Any] = {
    "prompt": turn_text("tara", SENTENCE),
    "max_tokens": 140,
    "temperature": 0.6,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "return_token_ids": True,
    "ignore_eos": True,  # llama-server's: random weights would end now and then
    "cache_prompt": False,
}
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
    """A rival is not installed, or does not start."""


@dataclass
class CompletionLoad:
    """What `streams` clients saw within the window."""

    streams: int
    seconds: float
    tokens: int = 0
    errors: int = 0
    cpu_s: float = 0.0  # of all the server's threads
    first_frames_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)  # between frames
    counting: bool = False
    begun: set[int] = field(default_factory=set)  # clients that have had a token
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, client: int) -> None:
        self.begun.add(client)
        if len(self.begun) == self.streams:
            self.all_begun.set()

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def row(self) -> dict[str, float | None]:
        return {
            "streams": self.streams,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "ttff_ms_p50": _percentile(self.first_frames_ms, 50),
            "ttff_ms_p99": _percentile(self.first_frames_ms, 99),
            "gap_ms_p99": _percentile(self.gaps_ms, 99),
            "errors": self.errors,
            # Processor time is what a busy machine cannot blur; wall time is what a listener waits.
            "tokens_per_cpu_s": round(self.tokens / self.cpu_s, 1) if self.cpu_s else None,
        }


def measure_rivals(model: Path, threads: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Rows of each server by its name, one server after the other; a sentence for one that is missing or does not answer."""
    found: dict[str, Any] = {}
    for name in NEEDS:
        progress(f"tier 1 against its rivals: {name}")
        try:
            with completions_server(name, model, max(STREAMS), threads) as server:
                loads = [measure(server, BODY, streams, SECONDS) for streams in STREAMS]
            found[name] = [load.row() for load in loads]
            if not any(load.tokens for load in loads):
                found[name] = f"{name} answered none of {sum(load.errors for load in loads)} requests."
        except MissingRival as missing:
            found[name] = str(missing)
    return found


def tier_1(model: Path, name: str = "tier 1", **environment: str) -> ChildServer:
    """`orpheus llama` on a free port of this machine, not awaited yet."""
    port = free_port()
    command = [sys.executable, "-m", "orpheus", "llama", "--supervised", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = {"ORPHEUS_LOG_LEVEL": "warning", **environment}
    return ChildServer(name, command, f"http://127.0.0.1:{port}", environment=quiet, capture=True)


@contextlib.contextmanager
def completions_server(name: str, model: Path, streams: int, threads: int) -> Iterator[ChildServer]:
    """The server by its name, once it answers. MissingRival if it is not installed or does not start."""
    if any(importlib.util.find_spec(module) is None for module in NEEDS.get(name, ())):
        raise MissingRival(
            f"{name} is left out: pip install 'orpheus-tts-pair[bench]' (in a checkout '.[bench]') installs it."
        )
    port, context = free_port(), CONTEXT_TOKENS
    url = f"http://127.0.0.1:{port}"
    if name in ("ours", WHOLE_HEAD):
        sizes = {"STREAMS": streams, "CONTEXT_TOKENS": context, "THREADS": threads}
        told = {**sizes, "UNCONSTRAINED": name == WHOLE_HEAD}
        started = tier_1(model, name, **{f"ORPHEUS_{key}": str(value) for key, value in told.items()})
    elif name == "llama_cpp_server":
        wanted = {"model": model, "port": port, "n_ctx": context, "n_threads": threads, "verbose": False}
        wanted["interrupt_requests"] = False  # else each new request cuts off the one before
        command = ["-m", "llama_cpp.server", *(f"--{option}={value}" for option, value in wanted.items())]
        started = ChildServer(name, [sys.executable, *command], url, health="/v1/models", capture=True)
    else:
        command = ["-c", LLAMA_SERVER, *map(str, (model, port, streams, threads, context))]
        started = ChildServer(name, [sys.executable, *command], url, capture=True)
    with started as server:
        try:
            wait_until_healthy([server], START_S)
        except OrpheusError as error:
            raise MissingRival(f"{name} did not start: {error}") from error
        yield server


def measure(
    server: ChildServer,
    body: Mapping[str, Any],
    streams: int,
    seconds: float,
    *,
    all_within_s: float = 0.0,
) -> CompletionLoad:
    """Load the server's completions endpoint for WARM_S, then count for `seconds`.

    Counting starts once every stream has begun, or after `all_within_s` seconds.
    """
    return asyncio.run(_measure(server, body, streams, seconds, all_within_s))


def wait_until_idle(server: ChildServer, within_s: float = 30.0) -> None:
    """Until it computes nothing more: some servers go on for clients that have left, at the next one's expense."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        before_s = _cpu_s(server)
        time.sleep(IDLE_S)
        if _cpu_s(server) - before_s < IDLE_S / 10:
            return


async def _measure(
    server: ChildServer, body: Mapping[str, Any], streams: int, seconds: float, all_within_s: float
) -> CompletionLoad:
    load = CompletionLoad(streams, seconds)
    tasks = [asyncio.create_task(_client(server.url, body, n, load)) for n in range(streams)]
    await asyncio.sleep(WARM_S)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(load.all_begun.wait(), all_within_s)
    before_s, load.counting = _cpu_s(server), True
    await asyncio.sleep(seconds)
    load.counting, load.cpu_s = False, _cpu_s(server) - before_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return load


async def _client(url: str, body: Mapping[str, Any], number: int, load: CompletionLoad) -> None:
    """One client: sends a request as soon as the previous one is answered."""
    seed = number
    while True:
        seed += 1000
        try:
            await _one(url, {**body, "seed": seed, "stream": True}, number, load)
        except (OSError, EOFError):
            load.errors += 1
            await asyncio.sleep(0.05)


async def _one(url: str, body: Mapping[str, Any], number: int, load: CompletionLoad) -> None:
    """One completion over a raw socket: an HTTP library would cost more than some of what is measured."""
    at = urlsplit(url)
    last_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        data = json.dumps(body).encode()
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
        )
        if b" 200 " not in await reader.readline():
            raise OSError("refused")
        tokens = 0
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            load.begin(number)
            now_s = time.perf_counter()
            # Ours sends frames; the others an event per token, whose text may be empty.
            new = line.count(b"<custom_token_") if b'"token_ids"' in line else 1
            frames, tokens = tokens // SLOTS, tokens + new
            if not load.counting:
                last_s = now_s
                continue
            load.tokens += new
            if tokens // SLOTS > frames:
                (load.gaps_ms if frames else load.first_frames_ms).append((now_s - last_s) * 1e3)
                last_s = now_s
    finally:
        writer.close()


def _cpu_s(server: ChildServer) -> float:
    """Processor seconds used so far by all its threads; 0 without /proc."""
    try:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _percentile(values: list[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if values else None  # none came within the window
