"""What `benchmarks.roofline` measures on the machine it runs on: the host's share of a step, and steps of its own.

Here the card is a processor: its bandwidth is a stream triad's, and the model is one of random weights.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.step_model import Machine, from_gguf, step_ms
from orpheus.llama import backend
from orpheus.llama.batches import SPARE, BatchRow
from orpheus.llama.completion import Completion, CompletionChunk
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.metrics import EngineMetrics, Stats
from orpheus.llama.scheduler import TokenSequence
from orpheus.llama.steps import Steps
from orpheus.llama.stream import Stream
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
