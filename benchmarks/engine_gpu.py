"""Milliseconds per step of Orpheus-3B's shape with random Q8_0 weights, at batch 1 … 64, beside the card's roofline.

    python -m benchmarks.engine_gpu [--tiny | --quick] [--steps N] [--context TOKENS]

For a machine with a GPU and a llama.cpp built for it; writes GGUFs of 3.5 and 3.1 GB and removes them. `--tiny` runs the
same on a small model anywhere. The whole head and the trimmed one, which is what serves; caches of f16 and q8_0; the
projection to an L40S is by bandwidth. `projected_ms` is what `benchmarks.roofline` expects of a card it knows, beside
`ms`; `bandwidth_share` at batch 1 is what its --share wants.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from benchmarks.engine import sample_ms_per_token
from benchmarks.step_model import Machine, described, find_card, step_ms
from orpheus.errors import OrpheusError
from orpheus.llama.batches import SPARE, BatchRow, count_passes
from orpheus.llama.trimmed_head import find_or_make
from orpheus.vocabulary import FIRST_CODE, PUBLISHED_BASE_ID, TOKENS_PER_S
from training.random_gguf import ORPHEUS_3B, TINY, Body, write_gguf

if TYPE_CHECKING:
    from orpheus.llama.backend import Model

FIRST_ID = PUBLISHED_BASE_ID + FIRST_CODE  # of an audio token
L40S_GB_S = 864.0  # NVIDIA's figure
Q8_0_BYTES = 34 / 32
KV_BYTES: dict[Literal["f16", "q8_0"], float] = {"f16": 2.0, "q8_0": Q8_0_BYTES}
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
QUICK_BATCHES = (1, 8, 32)


def step_bytes(body: Body, outputs: int, batch: int, context: int, kv: Literal["f16", "q8_0"]) -> float:
    """Bytes that a step must read: all weights once, of the head `outputs` rows, and the cache of every sequence."""
    head = body.width // body.heads
    layer = body.width * body.width * 2 + 2 * body.width * body.kv_heads * head + 3 * body.width * body.ffn
    weights = (body.layers * layer + body.width * outputs) * (Q8_0_BYTES if body.weights == "q8_0" else 2)
    cache = 2 * body.layers * body.kv_heads * head * KV_BYTES[kv] * context * batch
    return weights + cache


def bandwidth_gb_s() -> float | None:
    """Of a copy within the GPU; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(12):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = max(best, 2 * source.numel() / (time.perf_counter() - began) / 1e9)
    return best


def steps_ms(
    model: Model, kv: Literal["f16", "q8_0"], batch: int, context: int, steps: int
) -> dict[str, float]:
    """Median time of a step of `batch` sequences around `context` tokens, and its passes over the weights."""
    from orpheus.llama.backend import Context, ContextOptions

    options = ContextOptions(
        sequences=batch + SPARE,
        context_tokens=context + steps + 64,
        batch_tokens=512,
        outputs=batch + SPARE,
        threads=4,
        kv_type=kv,
    )
    running = Context(model, options)
    try:
        position = 0
        while position < context:  # the same text for all: what is in the cache does not change the time
            count = min(256, context - position)
            for seq_id in range(batch):
                running.decode([BatchRow(seq_id, position, (65,) * count, position + count == context)])
            position += count
        running.logits(1)
        times = []
        rows = []
        for step in range(steps):
            rows = [BatchRow(seq_id, context + step, (FIRST_ID + step,), True) for seq_id in range(batch)]
            began = time.perf_counter()
            if running.decode(rows):
                raise RuntimeError("no room in the cache")
            running.logits(batch)[:, FIRST_ID - model.outputs.start].sum()
            times.append(time.perf_counter() - began)
        return {"ms": round(float(np.median(times[2:])) * 1e3, 3), "passes": count_passes(rows, 512)}
    finally:
        running.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tiny", action="store_true", help="a tiny model, two batch sizes: any machine")
    options.add_argument("--quick", action="store_true", help="three batch sizes, and caches of f16 alone")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--context", type=int, default=700, help="tokens of a sentence half way through")
    chosen = options.parse_args()
    from orpheus.llama.backend import Model

    body = TINY if chosen.tiny else ORPHEUS_3B
    batches = (1, 4) if chosen.tiny else QUICK_BATCHES if chosen.quick else BATCHES
    measured = bandwidth_gb_s()
    card = torch.cuda.get_device_name() if measured else "no GPU"
    sheet = None if chosen.tiny else find_card(card)
    print(f"{card}; copy bandwidth {measured and round(measured)} GB/s", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder) / "shape.gguf", body)
        whole = described("Q8_0")
        for head, trimmed in (("whole", None), ("trimmed", find_or_make(path))):
            model = Model(path, -1, None, trimmed)
            for kv in list(KV_BYTES)[: 1 if chosen.quick else None]:
                for batch in batches:
                    row: dict[str, Any] = {"head": head, "type": kv, "batch": batch}
                    try:
                        row |= steps_ms(model, kv, batch, chosen.context, chosen.steps)
                    except (OrpheusError, RuntimeError) as error:
                        print(json.dumps({**row, "error": str(error)}), flush=True)
                        continue
                    needed_gb = step_bytes(body, len(model.outputs), batch, chosen.context, kv) / 1e9
                    row["gb_s"] = round(needed_gb / row["ms"] * 1e3, 1)
                    row["host_ms"] = round(batch * sample_ms_per_token(batch, 20), 3)
                    if sheet:
                        machine = Machine.of(sheet, lambda streams: 0.0)
                        expected = (whole.trimmed() if trimmed else None) or whole
                        row["projected_ms"] = round(
                            step_ms(expected, machine, batch, chosen.context, kv, joining=False), 3
                        )
                        row["bandwidth_share"] = round(row["gb_s"] / sheet.gb_s, 3)
                    if measured:
                        row["roofline_ms"] = round(needed_gb / measured * 1e3, 3)
                        row["l40s_ms"] = round(row["ms"] * measured / L40S_GB_S, 3)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
            model.close()
    best: dict[str, int | None] = {}
    for row in rows:
        key = f"l40s_streams_{row['type']}" + ("" if row["head"] == "trimmed" else "_whole")
        best.setdefault(key, None)
        if "l40s_ms" in row and (row["l40s_ms"] + row["host_ms"]) * TOKENS_PER_S <= 1000:
            best[key] = max(best[key] or 0, row["batch"])
    print(json.dumps({"card": card, "bandwidth_gb_s": measured, **best, "rows": rows}))


if __name__ == "__main__":
    main()
