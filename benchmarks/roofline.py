"""How many streams a card carries in real time, projected from a GGUF, data sheets and this host: no card is needed.

    python -m benchmarks.roofline [--model PATH] [--quick] [--context TOKENS] [--share SHARE]

Without a file: Orpheus-3B at Q8_0 and Q4_K_M, by the shapes of their tensors. `--share` is the share of the data sheet's
bandwidth that llama.cpp reaches: `benchmarks.engine_gpu` prints it for a card at hand. The host's share is measured on the
processor this runs on. At the end, the same arithmetic predicts this processor's own steps, which are measured in the same
run. A table, a picture in benchmarks/results/roofline.png unless it is quick, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.step_model import (
    ARITHMETIC_SHARE,
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
)
from benchmarks.this_machine import check_here, host_curve
from orpheus.gpu import BANDWIDTH_SHARE
from orpheus.ops.bench.show import save_picture

# What others have told: streams in real time, and of which card
PUBLISHED = (
    # fp8 with TensorRT-LLM on half an H100: https://lawwu.github.io/transcripts/transcript_gmTHs5T_YAE.html
    ("H100, half", (16, 24), "Baseten: 16 with changing traffic, 24 with constant"),
    # the same model with vLLM: https://www.silares.com/targets/target-1-baseten
    ("H100", (216, 216), "SAIL: 216"),
)


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
    for name in ("card", "model", *variants, "memory", "published"):
        table.add_column(
            name,
            justify="left" if name in ("card", "model") else "right",
            no_wrap=name in ("card", "memory", "published"),
        )
    for row in rows:
        held, told = row["in_memory"].values(), row["published"] or ()
        table.add_row(
            row["card"],
            row["model"].removeprefix("Orpheus-3B "),
            *(str(row["streams"].get(name, "")) for name in variants),
            f"{min(held)} to {max(held)}",
            " to ".join(map(str, dict.fromkeys(told))),
        )
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
            at + (index - (len(variants) - 1) / 2) * thick,
            streams,
            thick * 0.92,
            label=f"{variant.replace(' ', ' head, ')} cache",
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
        f"{list(here['predicted_ms'].values())} ms, measured {list(here['measured_ms'].values())[: len(here['error'])]}: off by "
        + ", ".join(f"{error:+.0%}" for error in here["error"].values()),
        highlight=False,
    )
    title = f"{models[0].name}, {chosen.context} tokens of context on average"
    if not chosen.quick:
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
