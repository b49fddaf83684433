"""Milliseconds per step with the whole head and with the trimmed one, step by step in turn.

    python -m benchmarks.trimmed_head [--orpheus-3b] [--threads N] [--steps N]

Random Q8_0 weights with the published vocabulary, in the embedded voice's shape or in Orpheus-3B's (which writes 6.6 GB
and removes them). A step is a decode of one token a sequence, and a copy of the logits of one slot, as tier 1 samples
them. The logits are compared, bit for bit. One JSON object on the last line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from orpheus.llama.backend import Context, ContextOptions, Model
from orpheus.llama.batches import SPARE, BatchRow
from orpheus.llama.trimmed_head import find_or_make
from orpheus.vocabulary import CODES_PER_SLOT, FIRST_CODE, PUBLISHED_BASE_ID
from training.random_gguf import ORPHEUS_3B, SMALL, Body, write_gguf

ROWS = (1, 16)
CODE = PUBLISHED_BASE_ID + FIRST_CODE
PROMPT = (128259, 128000, *range(65, 85), 128009, 128260, 128261, 128257)
WARM_STEPS = 2


class Head:
    """One model and its context, a step at a time."""

    def __init__(self, model: Model, threads: int) -> None:
        self.model = model
        sequences = max(ROWS) + SPARE
        self.context = Context(model, ContextOptions(sequences, 512, 512, sequences, threads))
        self.codes = slice(CODE - model.outputs.start, CODE - model.outputs.start + CODES_PER_SLOT)

    def read_prompts(self, rows: int) -> float:
        """Milliseconds of reading a prompt each."""
        began = time.perf_counter()
        for row in range(rows):
            self.context.free(row)
            self.context.decode([BatchRow(row, 0, PROMPT, True)])
            self.context.logits(1)
        return (time.perf_counter() - began) * 1e3 / rows

    def step(self, rows: int, step: int) -> tuple[float, Any]:
        """Milliseconds, and the logits of one slot."""
        batch = [BatchRow(row, len(PROMPT) + step, (CODE + 7 * row + step,), True) for row in range(rows)]
        began = time.perf_counter()
        self.context.decode(batch)
        logits = self.context.logits(rows)[:, self.codes].copy()
        return (time.perf_counter() - began) * 1e3, logits


def compare(path: Path, threads: int, steps: int) -> dict[str, Any]:
    trimmed = find_or_make(path)
    assert trimmed is not None
    heads = {
        "whole": Head(Model(path, 0), threads),
        "trimmed": Head(Model(path, 0, None, trimmed), threads),
    }
    found: dict[str, Any] = {
        "whole_mb": round(path.stat().st_size / 1e6),
        "trimmed_mb": round(trimmed.path.stat().st_size / 1e6),
        "differing_logits": 0,
    }
    for rows in ROWS:
        prompt_ms = {name: head.read_prompts(rows) for name, head in heads.items()}
        times: dict[str, list[float]] = {name: [] for name in heads}
        for step in range(steps + WARM_STEPS):
            logits = []
            for name, head in heads.items():
                took_ms, copied = head.step(rows, step)
                times[name].append(took_ms)
                logits.append(copied)
            found["differing_logits"] += int((logits[0] != logits[1]).sum())
        for name, all_ms in times.items():
            counted = all_ms[WARM_STEPS:]
            found[f"{name}_ms_{rows}"] = round(float(np.median(counted)), 3)
            found[f"{name}_least_ms_{rows}"] = round(min(counted), 3)
            found[f"{name}_prompt_ms_{rows}"] = round(prompt_ms[name], 3)
        found[f"speedup_{rows}"] = round(found[f"whole_ms_{rows}"] / found[f"trimmed_ms_{rows}"], 3)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--orpheus-3b", action="store_true", help="in the shape of Orpheus-3B")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--steps", type=int, default=None, help="200, or 12 of Orpheus-3B")
    chosen = options.parse_args()
    body: Body = ORPHEUS_3B if chosen.orpheus_3b else dataclasses.replace(SMALL, weights="q8_0")
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder) / "shape.gguf", body)
        found = compare(path, chosen.threads, chosen.steps or (12 if chosen.orpheus_3b else 200))
    print(json.dumps({**found, "threads": chosen.threads, "date": date.today().isoformat()}))


if __name__ == "__main__":
    main()
