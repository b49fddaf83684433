"""How many streams a card carries in real time, projected from a GGUF, data sheets and this host: no card is needed.

    python -m benchmarks.roofline [--model PATH] [--quick] [--context TOKENS] [--share SHARE]

Without a file: Orpheus-3B at Q8_0 and Q4_K_M, by the shapes of their tensors. `--share` is the share of the data sheet's
bandwidth that llama.cpp reaches: `benchmarks.engine_gpu` prints it for a card at hand. The host's share is measured on the
processor this runs on. At the end, the same arithmetic predicts this processor's own steps, which are measured in the same
run. A table, a picture in benchmarks/results/roofline.png, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.step_model import (
    ARITHMETIC_SHARE,
    BANDWIDTH_SHARE,
    CARDS,
    KEPT_ROWS,
    KV_BYTES,
    PUBLISHED_STEPS_MS,
    REAL_TIME_MS,
    Card,
    Kv,
    Machine,
    Model,
    described,
    from_gguf,
    most_in_memory,
    most_in_time,
    published_check,
    step_ms,
)
from orpheus.llama import backend
from orpheus.llama.batches import SPARE, BatchRow
from orpheus.llama.completion import Completion, CompletionChunk
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.metrics import EngineMetrics, Stats
from orpheus.llama.scheduler import TokenSequence
from orpheus.llama.steps import Steps
from orpheus.llama.stream import Stream
from orpheus.ops.bench.show import save_picture
from orpheus.sampling import Sampling
from orpheus.vocabulary import CODES_PER_SLOT, FIRST_CODE, PUBLISHED_BASE_ID, SLOTS, Vocabulary
from training.random_gguf import VOCABULARY, Body, write_gguf

HOST_STREAMS = (1, 32, 96, 192)
CPU_BODY = Body(
    layers=8, width=1024, heads=16, kv_heads=4, ffn=2816, weights="q8_0"
)  # 250 MB: past any cache here
CPU_ROWS, CALIBRATION_ROWS = (1, 4, 16), 64
FIRST_ID = PUBLISHED_BASE_ID + FIRST_CODE  # of an audio token
TRIAD_FLOATS, TRIAD_BLOCK = 1 << 25, 1 << 14  # three arrays of 128 MB, in blocks that stay in a core's cache
# What others have told: streams in real time, and of which card
PUBLISHED = (
    # fp8 with TensorRT-LLM on half an H100: https://lawwu.github.io/transcripts/transcript_gmTHs5T_YAE.html
    ("H100, half", (16, 24), "Baseten: 16 with changing traffic, 24 with constant"),
    # the same model with vLLM: https://www.silares.com/targets/target-1-baseten
    ("H100", (216, 216), "SAIL: 216"),
)


class NoModel:
    """Takes the place of llama.cpp's context: its logits are there at once."""

    def __init__(self, streams: int) -> None:
        rng = np.random.default_rng(0)
        self._logits = rng.standard_normal((streams, VOCABULARY), np.float32) * np.float32(3)
        self._logits[:, 128258] = -100  # no end of speech

    def decode(self, rows: list[BatchRow]) -> int:
        return 0

    def logits(self, rows: int) -> Any:
        return self._logits[:rows]


def host_ms(streams: int, rounds: int) -> float:
    """Milliseconds that tier 1's decode thread adds to a step: plan, copy, sample, publish, deliver."""
    starts = [PUBLISHED_BASE_ID + FIRST_CODE + CODES_PER_SLOT * slot for slot in range(SLOTS)]
    ids = tuple(range(start, start + CODES_PER_SLOT) for start in starts)
    vocabulary = Vocabulary(VOCABULARY, 128000, 128009, {2: 128258}, ids)
    config = EngineConfig(streams=streams, waiting=0, threads=1, context_tokens=8192)
    stats = Stats()
    steps = Steps(
        vocabulary,
        lambda: cast(backend.Context, NoModel(streams)),
        config,
        stats,
        EngineMetrics(stats, streams, dict),
    )
    steps._context = steps._open_context()  # `open` would measure a model

    async def run() -> float:
        for seed in range(streams):
            sampling = Sampling(temperature=0.6, top_p=0.9, repetition_penalty=1.1, seed=seed)
            completion = Completion((1, 2), 7000, sampling)
            stream = Stream(completion, time.monotonic(), lambda _: None, lambda: None, 0)
            steps.add(TokenSequence(stream, (1, 2), 7000, sampling))
        for _ in range(2 * streams):  # one joins a step, and first frames go before the others
            steps.step(time.monotonic())
        times_s = []
        for _ in range(rounds * SLOTS):
            started_s = time.perf_counter()
            for stream, item in steps.step(time.monotonic()):
                assert isinstance(item, CompletionChunk)
                stream.put(item)
            times_s.append(time.perf_counter() - started_s)
        # A frame is published in one step of seven: the mean of a round, and the median of those.
        return float(np.median(np.array(times_s).reshape(rounds, SLOTS).mean(axis=1))) * 1e3

    return asyncio.run(run())


def host_curve(rounds: int) -> tuple[dict[int, float], Callable[[int], float]]:
    """What was measured, and the milliseconds for any number of streams."""
    measured = {streams: host_ms(streams, rounds) for streams in HOST_STREAMS}
    counts, times = list(measured), list(measured.values())
    slope = (times[-1] - times[-2]) / (counts[-1] - counts[-2])

    def interpolated(streams: int) -> float:
        beyond = max(0, streams - counts[-1]) * slope
        return float(np.interp(streams, counts, times)) + beyond

    return measured, interpolated


def triad_bytes_s() -> float:
    """Bytes a second of a = b + 3 · c over arrays that no cache holds, on one core: the best of a few."""
    b, c = np.ones(TRIAD_FLOATS, np.float32), np.ones(TRIAD_FLOATS, np.float32)
    a, buffer = np.empty_like(b), np.empty(TRIAD_BLOCK, np.float32)
    best_s = np.inf
    for _ in range(4):
        started_s = time.perf_counter()
        for start in range(0, TRIAD_FLOATS, TRIAD_BLOCK):
            block = slice(start, start + TRIAD_BLOCK)
            np.multiply(c[block], np.float32(3), out=buffer)
            np.add(b[block], buffer, out=a[block])
        best_s = min(best_s, time.perf_counter() - started_s)
    return 3 * a.nbytes / best_s


def least_step_ms(model: backend.Model, rows: int, context: int, steps: int) -> float:
    """The least time of a step of `rows` streams on one core, whose caches hold from `context` tokens on."""
    options = backend.ContextOptions(
        sequences=rows + SPARE,
        context_tokens=context + steps + 64,
        batch_tokens=512,
        outputs=rows + SPARE,
        threads=1,
        kv_type="f16",
    )
    running = backend.Context(model, options)
    try:
        for seq_id in range(rows):
            running.decode([BatchRow(seq_id, 0, (65,) * context, True)])
        times_s = []
        for step in range(steps):
            batch = [BatchRow(seq_id, context + step, (FIRST_ID,), True) for seq_id in range(rows)]
            started_s = time.perf_counter()
            running.decode(batch)
            running.logits(rows)
            times_s.append(time.perf_counter() - started_s)
        return min(times_s) * 1e3
    finally:
        running.close()


def check_here(context: int, steps: int) -> dict[str, Any]:
    """Steps of a random model on one core of this processor, and what the arithmetic makes of its bandwidth, in ms.

    Its rate of arithmetic is on no data sheet: it is taken from a step of CALIBRATION_ROWS.
    """
    bytes_s = triad_bytes_s()
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder) / "random.gguf", CPU_BODY)
        model, running = from_gguf(path), backend.Model(path, 0)
        every = (*CPU_ROWS, CALIBRATION_ROWS)
        measured = {rows: round(least_step_ms(running, rows, context, steps), 2) for rows in every}
        running.close()

    def predicted_ms(rows: int, operations_s: float) -> float:
        return step_ms(model, Machine(bytes_s, operations_s), rows, context, "f16", joining=False)

    left_s = (measured[CALIBRATION_ROWS] - predicted_ms(CALIBRATION_ROWS, np.inf)) / 1e3
    operations_s = CALIBRATION_ROWS * model.operations(context) / left_s
    predicted = {rows: predicted_ms(rows, operations_s) for rows in CPU_ROWS}
    return {
        "triad_gb_s": round(bytes_s / 1e9, 1),
        "g_operations_s": round(operations_s / 1e9),
        "gguf_mb": round(model.file_bytes / 1e6),
        "context": context,
        "measured_ms": measured,
        "predicted_ms": {rows: round(ms, 2) for rows, ms in predicted.items()},
        "error": {rows: round(ms / measured[rows] - 1, 3) for rows, ms in predicted.items()},
    }


def project(
    models: list[Model], context: int, host: Callable[[int], float], share: float
) -> list[dict[str, Any]]:
    """A row for each card and model: streams in real time by head and cache, and what memory holds."""
    rows = []
    for card in (*CARDS, CARDS[-1].half()):
        machine = Machine.of(card, host, share)
        for model in models:
            row: dict[str, Any] = {"card": card.name, "model": model.name, "streams": {}, "in_memory": {}}
            for head, variant in (("whole", model), ("trimmed", model.trimmed())):
                for kv in KV_BYTES:
                    if variant is not None:
                        found, held = _streams(variant, machine, card, context, kv)
                        row["streams"][f"{head} {kv}"], row["in_memory"][f"{head} {kv}"] = found, held
            row["published"] = next((told for name, told, _ in PUBLISHED if name == card.name), None)
            rows.append(row)
    return rows


def _streams(model: Model, machine: Machine, card: Card, context: int, kv: Kv) -> tuple[int, int]:
    held = most_in_memory(model, card, kv)
    return min(held, most_in_time(model, machine, context, kv)), held


def show(rows: list[dict[str, Any]], context: int, console: Console) -> None:
    table = Table(
        title=f"Streams in real time ({REAL_TIME_MS:.2f} ms a step), {context} tokens of context on average",
        title_justify="left",
        box=None,
    )
    variants = list(rows[0]["streams"])
    for name in ("card", "model", *variants, "memory holds", "published"):
        table.add_column(name, justify="left" if name in ("card", "model") else "right")
    for row in rows:
        held = row["in_memory"].values()
        told = row["published"]
        told = "" if told is None else f"{told[0]}" if told[0] == told[1] else f"{told[0]} to {told[1]}"
        found = [str(row["streams"][name]) for name in variants]
        table.add_row(row["card"], row["model"], *found, f"{min(held)} to {max(held)}", told)
    console.print(table)


def draw(pyplot: Any, rows: list[dict[str, Any]], title: str) -> Any:
    """Bars of each card, for the first model alone, and what others have told."""
    rows = [row for row in rows if row["model"] == rows[0]["model"]]
    variants = list(rows[0]["streams"])
    figure, axes = pyplot.subplots(figsize=(9, 4.8), layout="constrained")
    thick = 0.8 / len(variants)
    at = np.arange(len(rows))
    for index, variant in enumerate(variants):
        streams = [row["streams"][variant] for row in rows]
        bars = axes.barh(
            at + (index - (len(variants) - 1) / 2) * thick, streams, thick * 0.92, label=f"{variant} cache"
        )
        axes.bar_label(bars, padding=3, fontsize=8)
    for place, row in enumerate(rows):
        if row["published"]:
            least, most = row["published"]
            label = "published, another engine (fp8)" if place == len(rows) - 1 else None
            axes.plot([least, most], [place, place], "k|-", markersize=26, linewidth=2, label=label)
    axes.set_yticks(at, [row["card"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="streams in real time, projected", title=title, xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF, instead of the published shape")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--context", type=int, default=700, help="tokens of a sentence half way through")
    parser.add_argument(
        "--share", type=float, default=BANDWIDTH_SHARE, help="of the bandwidth, that is reached"
    )
    chosen = parser.parse_args()
    console = Console()
    models = [from_gguf(chosen.model)] if chosen.model else [described("Q8_0"), described("Q4_K_M")]
    measured, host = host_curve(5 if chosen.quick else 20)
    rows = project(models, chosen.context, host, chosen.share)
    show(rows, chosen.context, console)
    for model in models:
        trimmed = model.trimmed()
        kept = (
            ""
            if trimmed is None
            else f", {trimmed.bytes / 1e9:.2f} with {KEPT_ROWS:,} rows of {model.rows:,}"
        )
        console.print(
            f"{model.name}: a pass reads {model.bytes / 1e9:.2f} GB{kept}; "
            f"{model.operations(chosen.context) / 1e9:.1f} G operations a row, "
            f"{model.kv_bytes('f16') / 1024:.0f} KiB a token of cache.",
            highlight=False,
        )
    console.print(
        f"{chosen.share:.0%} of a card's bandwidth, {ARITHMETIC_SHARE:.0%} of its int8 rate. The host adds, measured on "
        f"this {platform.machine()} processor: "
        + ", ".join(f"{ms:.2f} ms at {streams}" for streams, ms in measured.items()),
        highlight=False,
    )
    for _, _, told in PUBLISHED:
        console.print(f"  published, fp8 and another engine: {told}", highlight=False)
    published = {streams: round(ms, 2) for streams, ms in published_check().items()}
    console.print(
        f"An RTX 4090's steps of an 8B, published {PUBLISHED_STEPS_MS} ms, by this arithmetic {published}.",
        highlight=False,
    )
    here = check_here(128, 6 if chosen.quick else 16)
    console.print(
        f"One core here at {here['triad_gb_s']} GB/s (triad): steps of {list(here['predicted_ms'])} rows predicted as "
        f"{list(here['predicted_ms'].values())} ms, measured {list(here['measured_ms'].values())[: len(CPU_ROWS)]}: off by "
        + ", ".join(f"{error:+.0%}" for error in here["error"].values()),
        highlight=False,
    )
    title = f"{models[0].name}, {chosen.context} tokens of context on average"
    save_picture(RESULTS / "roofline.png", lambda pyplot: draw(pyplot, rows, title))
    result = {
        "context": chosen.context,
        "bandwidth_share": chosen.share,
        "host_ms": {streams: round(ms, 3) for streams, ms in measured.items()},
        "cards": rows,
        "published_steps_ms": published,
        "here": here,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
