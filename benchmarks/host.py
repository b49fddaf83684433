"""What the host does in a step of tier 1, apart from the model: milliseconds a step at 16, 48 and 96 streams.

    python -m benchmarks.host [--quick]

Needs no GPU. A tiny model with the published vocabulary, whose `llama_decode` is replaced by one that sleeps as long as
a card would work and whose logits are random; everything else is tier 1 as it runs, with its readers in a process of
their own, over HTTP. A table, and one JSON object on the last line:

    host_ms_N      all of it: processor time of the decode thread and of the event loop, one after the other
    decode_thread  milliseconds in its parts: plan (with the batch's arrays), copy, sample, publish, deliver
    event_loop     milliseconds of processor time: reading chunks, events, HTTP, sockets
    added_ms_N     by how much a step takes longer than its decoding: what does not overlap with it
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import json
import multiprocessing
import selectors
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from orpheus.http.process import Server, listen
from orpheus.llama.engine import Engine
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.server import create_app
from orpheus.llamacpp import llama_cpp
from orpheus.prompt import turn_text
from orpheus.settings import Settings
from training.random_gguf import TINY, write_gguf

ROWS = (16, 48, 96)
DECODE_S = 0.006  # of a card; asleep, as the processor is then
SPREAD = 3.0  # of the logits: as many tokens are drawn anew as of a model that is sure of little
CONTEXT_TOKENS = 4096
MAX_TOKENS = CONTEXT_TOKENS // 7 * 7 - 140  # no stream ends while it is measured
START_S = 60.0


@dataclasses.dataclass
class Clock:
    """What has passed by some moment, in seconds."""

    wall_s: float
    slept_s: float
    decode_thread_s: float
    event_loop_s: float
    steps: int
    tokens: int
    parts: dict[str, float]


class HostBench:
    """An engine of `rows` streams with a decode that only sleeps, and its server."""

    def __init__(self, model: Path, rows: int) -> None:
        config = EngineConfig(streams=rows, waiting=4, threads=1, context_tokens=CONTEXT_TOKENS)
        self.engine = Engine.open(model, config)
        self._rows = rows
        self._slept_s = 0.0
        width = self.engine.vocabulary.size
        self._logits = np.random.default_rng(0).standard_normal((rows, width), np.float32) * np.float32(
            SPREAD
        )
        self._pointer = self._logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    @contextlib.contextmanager
    def decoding_nothing(self) -> Iterator[None]:
        def decode(context: Any, batch: Any) -> int:
            began = time.perf_counter()
            time.sleep(DECODE_S)
            self._slept_s += time.perf_counter() - began
            return 0

        with patch.multiple(llama_cpp, llama_decode=decode, llama_get_logits=lambda context: self._pointer):
            yield

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """The port of tier 1 over HTTP, in a thread of this process."""
        app = create_app(Settings(_env_file=None), lambda: self.engine)  # type: ignore[call-arg]
        bound = listen("127.0.0.1", 0, "another")

        async def drain(hurry: Any) -> None:
            return None

        server = Server(app, drain, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), name="host-loop")
        thread.start()
        self._loop_thread = thread
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
            bound.close()

    def clock(self) -> Clock:
        stats = self.engine.stats
        threads = {thread.name: thread for thread in threading.enumerate()}
        return Clock(
            time.perf_counter(),
            self._slept_s,
            _cpu_s(threads["orpheus-decode"]),
            _cpu_s(self._loop_thread),
            stats.steps,
            stats.tokens,
            dict(stats.part_s),
        )

    def wait_until_full(self) -> None:
        end = time.monotonic() + START_S
        while self.engine.load_report()["active"] < self._rows:
            if time.monotonic() > end:
                raise SystemExit(f"{self._rows} streams did not start within {START_S:g} s.")
            time.sleep(0.05)
        time.sleep(0.3)


def measure(model: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Milliseconds a step with `rows` streams."""
    bench = HostBench(model, rows)
    with bench.decoding_nothing(), bench.serving() as port:
        readers = multiprocessing.get_context("spawn").Process(target=_read, args=(port, rows), daemon=True)
        readers.start()
        try:
            bench.wait_until_full()
            before = bench.clock()
            time.sleep(seconds)
            after = bench.clock()
        finally:
            readers.terminate()
            readers.join()
    steps = after.steps - before.steps

    def ms(after_s: float, before_s: float) -> float:
        return round((after_s - before_s) / steps * 1e3, 3)

    slept_ms = ms(after.slept_s, before.slept_s)
    parts = {name: ms(after.parts[name], before.parts[name]) for name in after.parts}
    wall_ms = ms(after.wall_s, before.wall_s)
    parts["plan"] = round(parts["plan"] + parts.pop("decode") - slept_ms, 3)
    parts["deliver"] = round(wall_ms - slept_ms - sum(parts.values()), 3)
    decode_thread_ms = ms(after.decode_thread_s, before.decode_thread_s)
    loop_ms = ms(after.event_loop_s, before.event_loop_s)
    return {
        "rows": round((after.tokens - before.tokens) / steps, 1),
        "steps": steps,
        "host_ms": round(decode_thread_ms + loop_ms, 3),
        "decode_thread_ms": decode_thread_ms,
        "event_loop_ms": loop_ms,
        "added_ms": round(wall_ms - slept_ms, 3),
        "parts": parts,
    }


def _read(port: int, streams: int) -> None:
    """As many clients as streams, which read what comes and forget it. Runs in a process of its own."""
    chosen = selectors.DefaultSelector()
    for seed in range(streams):
        body = {
            "prompt": turn_text("tara", "The boat drifted slowly down the river."),
            "max_tokens": MAX_TOKENS,
            "temperature": 0.6,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
            "return_token_ids": True,
            "stream": True,
            "seed": seed,
        }
        data = json.dumps(body).encode()
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
        )
        chosen.register(client, selectors.EVENT_READ)
    while chosen.get_map():
        for key, _ in chosen.select():
            if not key.fileobj.recv(65536):  # type: ignore[union-attr]
                chosen.unregister(key.fileobj)


def _cpu_s(thread: threading.Thread) -> float:
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="48 and 96 streams, three seconds each")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model = write_gguf(Path(folder) / "tiny.gguf", dataclasses.replace(TINY, weights="q8_0"))
        for rows in ROWS[1:] if options.quick else ROWS:
            found[rows] = measure(model, rows, 3.0 if options.quick else 6.0)
            print(f"  {rows:3d} {json.dumps(found[rows])}", flush=True)
    result: dict[str, Any] = {}
    for rows, row in found.items():
        for key in ("host_ms", "added_ms", "decode_thread_ms", "event_loop_ms", "parts"):
            result[f"{key}_{rows}"] = row[key]
    print(json.dumps({**result, "decode_ms": DECODE_S * 1e3, "date": date.today().isoformat()}))


if __name__ == "__main__":
    main()
