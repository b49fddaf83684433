"""Tier 1 and its rivals, on one machine in one run.

    python -m benchmarks.engine [--quick] [--churn SECONDS] [--threads N]

Two GGUFs: the embedded voice, and random weights of the same body with the published vocabulary (156,940 tokens, Q8_0
as published), with the head whole and trimmed. Tables, and one JSON object on the last line, whose keys without a model's name are those of the
published vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.churn import churn
from orpheus import embedded
from orpheus.llama.sampler import Sampler
from orpheus.ops.bench.rivals import (
    BODY,
    NEEDS,
    WHOLE_HEAD,
    MissingRival,
    completions_server,
    measure,
    wait_until_idle,
)
from orpheus.ops.child import ChildServer
from orpheus.sampling import Sampling
from orpheus.vocabulary import CODES_PER_SLOT, FIRST_CODE, PUBLISHED_BASE_ID, SLOTS, Vocabulary
from training.random_gguf import SMALL, VOCABULARY, write_gguf

TITLES = {"published vocabulary": "", "embedded voice": "_embedded"}  # and what ends their JSON keys
ALL_WITHIN_S = 3.0  # for every stream to begin, before anything is counted
Table = dict[str, list[dict[str, Any]]]  # by server


def sample_ms_per_token(rows: int, steps: int = 200) -> float:
    """Copying and sampling `rows` sequences with published ids, in ms per token. Needs no model."""
    starts = [PUBLISHED_BASE_ID + FIRST_CODE + CODES_PER_SLOT * slot for slot in range(SLOTS)]
    ids = tuple(range(start, start + CODES_PER_SLOT) for start in starts)
    sampler = Sampler(Vocabulary(VOCABULARY, 128000, 128009, {2: 128258}, ids), rows)
    logits = (np.random.default_rng(0).standard_normal((rows, VOCABULARY)) * 3).astype(np.float32)
    for row in range(rows):
        sampler.open(row, Sampling(temperature=0.6, top_p=0.9, repetition_penalty=1.1, seed=row))
    every = np.arange(rows)
    times = []
    for _ in range(steps):
        started_s = time.perf_counter()
        sampler.draw(sampler.gather(logits, every, every), every)
        times.append(time.perf_counter() - started_s)
    return float(np.median(times)) / rows * 1e3


def compare(model: Path, counts: tuple[int, ...], seconds: float, threads: int) -> Table:
    """Rows of each server at each number of streams, in turn, so that a busy machine disturbs all alike."""
    table: Table = {}
    with contextlib.ExitStack() as running:
        servers: dict[str, ChildServer] = {}
        # The embedded voice's head is whole as it is.
        for name in (*NEEDS, *(() if model == embedded.MODEL else (WHOLE_HEAD,))):
            try:
                servers[name] = running.enter_context(completions_server(name, model, max(counts), threads))
            except MissingRival as missing:
                print(missing, flush=True)
        for streams in counts:
            for name, server in servers.items():
                row = measure(server, BODY, streams, seconds, all_within_s=ALL_WITHIN_S).row()
                wait_until_idle(server)
                table.setdefault(name, []).append(row)
                print(f"  {name:17s} {json.dumps(row)}", flush=True)
    return table


def first_frame_ratio(model: Path, seconds: float, threads: int, streams: int = 16) -> dict[str, Any]:
    """The median time to first frame of a newcomer at 75% load, over that of an only client."""
    with completions_server("ours", model, streams, threads) as server:
        body = {**BODY, "max_tokens": 35}
        alone = measure(server, body, 1, seconds).row()["ttff_ms_p50"]
        others = threading.Thread(
            target=measure, args=(server, {**BODY, "max_tokens": 420}, streams * 3 // 4 - 1, seconds + 1.5)
        )
        others.start()
        time.sleep(1.0)
        loaded = measure(server, body, 1, seconds - 0.5).row()["ttff_ms_p50"]
        others.join()
    ratio = round(loaded / alone, 2) if loaded and alone else None
    return {"ttff_ms_alone": alone, "ttff_ms_at_75": loaded, "ttff_75_vs_alone": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 and 16 streams, seconds instead of minutes")
    parser.add_argument("--churn", type=float, default=None, help="seconds of churn; 600 is the full test")
    parser.add_argument("--threads", type=int, default=1, help="llama.cpp threads of each server")
    options = parser.parse_args()
    counts = (1, 16) if options.quick else (1, 4, 8, 16, 32)
    seconds = 2.5 if options.quick else 4.0

    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        published = write_gguf(Path(folder) / "published.gguf", dataclasses.replace(SMALL, weights="q8_0"))
        for title, model in zip(TITLES, (published, embedded.MODEL), strict=True):
            print(title, flush=True)
            tables[title] = compare(model, counts, seconds, options.threads)
        first = first_frame_ratio(embedded.MODEL, seconds, options.threads)
    churned = churn(embedded.MODEL, 16, options.churn or (8.0 if options.quick else 60.0))

    def at(title: str, name: str, streams: int, key: str) -> Any:
        return next((row[key] for row in tables[title].get(name, ()) if row["streams"] == streams), None)

    result: dict[str, Any] = {}
    for title, suffix in TITLES.items():
        for rival in (*list(NEEDS)[1:], WHOLE_HEAD):
            for streams in (1, 16):
                for key, ending in (("tokens_per_s", ""), ("tokens_per_cpu_s", "_cpu")):
                    theirs = at(title, rival, streams, key)
                    ratio = round(at(title, "ours", streams, key) / theirs, 2) if theirs else None
                    result[f"vs_{rival}_{streams}{suffix}{ending}"] = ratio
    result |= {
        "sample_ms_per_token_32": round(sample_ms_per_token(32), 4),
        "ttff_ms_p99_16": at("published vocabulary", "ours", 16, "ttff_ms_p99"),
        "gap_ms_p99_16": at("published vocabulary", "ours", 16, "gap_ms_p99"),
        "passes_per_step": churned["passes_per_step"],
        **first,
        "churn": churned,
        "threads": options.threads,
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
