"""Tier 1 beside its rivals, on one machine in one run: a table, a picture and one JSON object.

    python -m benchmarks.engine [--quick] [--churn SECONDS] [--threads N]

Two GGUFs: the embedded voice, and random weights of the same shape with the published vocabulary (156,940
tokens, Q8_0 as published). JSON keys that name no model are those of the published vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.churn import churn
from orpheus import embedded
from orpheus.llama.sampler import Sampler
from orpheus.ops.bench.load import measure
from orpheus.ops.bench.rivals import BODY
from orpheus.ops.bench.servers import MissingRival, Server, serve
from orpheus.sampling import Sampling
from orpheus.vocabulary import CODES_PER_SLOT, FIRST_CODE, PUBLISHED_BASE_ID, SLOTS, Vocabulary
from training.random_gguf import SMALL, VOCABULARY, write_gguf

RESULTS = Path(__file__).parent / "results"
NAMES = ("ours", "llama_cpp_server", "llama_server")


def sample_ms_per_token(rows: int, steps: int = 200) -> float:
    """Milliseconds per token of copying and sampling `rows` sequences with published ids. Needs no model."""
    starts = [PUBLISHED_BASE_ID + FIRST_CODE + CODES_PER_SLOT * slot for slot in range(SLOTS)]
    ids = tuple(range(start, start + CODES_PER_SLOT) for start in starts)
    sampler = Sampler(Vocabulary(VOCABULARY, 128000, 128009, {2: 128258}, ids), rows)
    logits = (np.random.default_rng(0).standard_normal((rows, VOCABULARY)) * 3).astype(np.float32)
    for row in range(rows):
        sampler.open(row, Sampling(temperature=0.6, top_p=0.9, repetition_penalty=1.1, seed=row))
    every = np.arange(rows)
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        sampler.draw(sampler.gather(logits, every, every), every)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) / rows * 1e3


def compare(
    model: Path, counts: tuple[int, ...], seconds: float, threads: int
) -> dict[str, list[dict[str, Any]]]:
    """Figures of each server at each number of streams, taken in turn so that a busy machine affects all alike."""
    found: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as running:
        servers: dict[str, Server] = {}
        for name in NAMES:
            try:
                servers[name] = running.enter_context(serve(name, model, max(counts), threads))
            except MissingRival as missing:
                print(missing, flush=True)
        for streams in counts:
            for name, server in servers.items():
                before = server.cpu_s()
                load = measure(server.url, BODY, streams, seconds)
                # Processor time is what a busy machine does not distort; wall time is what a listener waits.
                cpu_s = (server.cpu_s() - before) * load.seconds / (load.seconds + load.warm_s)
                row = {**load.row(), "tokens_per_cpu_s": round(load.tokens / max(cpu_s, 1e-9), 1)}
                found.setdefault(name, []).append(row)
                print(f"  {name:17s} {json.dumps(row)}", flush=True)
    return found


def first_frame_ratio(model: Path, seconds: float, threads: int, streams: int = 16) -> dict[str, Any]:
    """Median time to the first frame of a new client at 75% load, over that of a lone client."""
    import threading

    with serve("ours", model, streams, threads) as server:
        body = {**BODY, "max_tokens": 35}
        alone = measure(server.url, body, 1, seconds).row()["ttff_ms_p50"]
        busy = streams * 3 // 4 - 1
        others = threading.Thread(
            target=measure, args=(server.url, {**BODY, "max_tokens": 420}, busy, seconds + 1.5)
        )
        others.start()
        time.sleep(1.0)
        loaded = measure(server.url, body, 1, seconds - 0.5).row()["ttff_ms_p50"]
        others.join()
    return {
        "ttff_ms_alone": alone,
        "ttff_ms_at_75": loaded,
        "ttff_75_vs_alone": round(loaded / alone, 2) if loaded and alone else None,
    }


def picture(tables: dict[str, dict[str, list[dict[str, Any]]]], memory: list[float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(tables) + 1, figsize=(13, 7), layout="constrained")
    for column, (model, table) in enumerate(tables.items()):
        for name, rows in table.items():
            streams = [row["streams"] for row in rows]
            axes[0, column].plot(streams, [row["tokens_per_cpu_s"] for row in rows], "o-", label=name)
            axes[1, column].plot(streams, [row["ttff_ms_p50"] for row in rows], "o-", label=name)
        axes[0, column].set(
            title=model, ylabel="tokens per processor second", xlabel="streams", ylim=(0, None)
        )
        axes[0, column].legend()
        axes[1, column].set(ylabel="time to first frame, ms (median)", xlabel="streams", yscale="log")
    rows_at = [1, 2, 4, 8, 16, 32, 64]
    axes[0, -1].plot(rows_at, [sample_ms_per_token(n, 60) for n in rows_at], "o-")
    axes[0, -1].axhline(0.03, ls=":", color="grey")
    axes[0, -1].set(title="sampling, 156,940 tokens", ylabel="ms per token", xlabel="rows", xscale="log")
    axes[1, -1].plot(np.linspace(0, 100, len(memory)), memory)
    axes[1, -1].set(
        title="memory under churn", ylabel="resident MB", xlabel="% of the run", ylim=(0, 1.3 * max(memory))
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="1 and 16 streams, seconds instead of minutes")
    options.add_argument("--churn", type=float, default=None, help="seconds of churn; 600 is the full test")
    options.add_argument("--threads", type=int, default=1, help="llama.cpp threads of each server")
    chosen = options.parse_args()
    counts = (1, 16) if chosen.quick else (1, 4, 8, 16, 32)
    seconds = 2.5 if chosen.quick else 4.0

    with tempfile.TemporaryDirectory() as folder:
        real = write_gguf(Path(folder) / "real.gguf", dataclasses.replace(SMALL, weights="q8_0"))
        tables = {}
        for title, model in (("published vocabulary", real), ("embedded voice", embedded.MODEL)):
            print(title, flush=True)
            tables[title] = compare(model, counts, seconds, chosen.threads)
        first = first_frame_ratio(embedded.MODEL, seconds, chosen.threads)
    churned = churn(embedded.MODEL, 16, chosen.churn or (8.0 if chosen.quick else 60.0))
    memory = churned.pop("memory_mb")
    RESULTS.mkdir(exist_ok=True)
    picture(tables, memory, RESULTS / "engine.png")

    def ratio(title: str, rival: str, streams: int, key: str = "tokens_per_s") -> float | None:
        rates = {
            name: row[key]
            for name, rows in tables[title].items()
            for row in rows
            if row["streams"] == streams
        }
        return round(rates["ours"] / rates[rival], 2) if rates.get(rival) else None

    result: dict[str, Any] = {}
    for title, suffix in (("published vocabulary", ""), ("embedded voice", "_embedded")):
        for rival in NAMES[1:]:
            for streams in (1, 16):
                result[f"vs_{rival}_{streams}{suffix}"] = ratio(title, rival, streams)
                result[f"vs_{rival}_{streams}{suffix}_cpu"] = ratio(title, rival, streams, "tokens_per_cpu_s")
    at_16 = next(row for row in tables["published vocabulary"]["ours"] if row["streams"] == 16)
    result |= {
        "sample_ms_per_token_32": round(sample_ms_per_token(32), 4),
        "ttff_ms_p99_16": at_16["ttff_ms_p99"],
        "gap_ms_p99_16": at_16["gap_ms_p99"],
        "passes_per_step": churned["passes_per_step"],
        **first,
        "churn": churned,
        "threads": chosen.threads,
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
