"""An engine with streams that start, end and are cancelled for some time: leaks, memory, and whether any token changed.

In process, without HTTP. Every tenth stream is greedy and is compared with the same request run alone before.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

from orpheus.errors import AtCapacity
from orpheus.llama.engine import Completion, Engine
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.settings import Settings

TEXTS = ("The boat drifted slowly.", "Hi.", "Nobody knew where the old road went.", "Birds sat on the wire.")


def churn(model: Path, streams: int, seconds: float) -> dict[str, Any]:
    settings = Settings(_env_file=None, streams=streams, context_tokens=512, threads=1)  # type: ignore[call-arg]
    engine = Engine.load(model, settings)
    try:
        return asyncio.run(_churn(engine, streams, seconds))
    finally:
        engine.close()


async def _churn(engine: Engine, streams: int, seconds: float) -> dict[str, Any]:
    def greedy(n: int) -> Completion:
        prompt = engine.tokenize_prompt(turn_text("tara", TEXTS[n]))
        return Completion(prompt, 70 + 35 * n, Sampling(temperature=0, seed=0))

    async def run(completion: Completion, stop_after: int | None = None) -> list[int]:
        numbers: list[int] = []
        async with engine.submit(completion) as stream:
            async for chunk in stream:
                numbers += chunk.numbers
                if stop_after is not None and len(numbers) >= stop_after:
                    break
        return numbers

    alone = [await run(greedy(n)) for n in range(len(TEXTS))]
    chance = random.Random(0)
    count = dict.fromkeys(("streams", "cancelled", "compared", "different"), 0)
    memory_mb: list[float] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(chance.random() * 0.02)
            n, kind = chance.randrange(len(TEXTS)), chance.random()
            count["streams"] += 1
            try:
                if kind < 0.1:
                    count["compared"] += 1
                    count["different"] += await run(greedy(n)) != alone[n]
                elif kind < 0.5:
                    count["cancelled"] += 1
                    await run(Completion(greedy(n).prompt, 490, Sampling(seed=None)), chance.randrange(0, 90))
                else:
                    await run(Completion(greedy(n).prompt, 7 * chance.randrange(1, 30), Sampling()))
            except AtCapacity:
                await asyncio.sleep(0.05)

    async def watch() -> None:
        while time.monotonic() < end:
            memory_mb.append(_resident_mb())
            await asyncio.sleep(max(0.2, seconds / 100))

    await asyncio.gather(watch(), *(client() for _ in range(streams)))
    await asyncio.sleep(0.3)
    report = engine.load_report()
    stats = engine.stats
    settled = memory_mb[len(memory_mb) // 5 :]
    return {
        "seconds": seconds,
        **count,
        "leaked": report["active"] + report["waiting"],
        "passes_per_step": round(stats.passes / max(1, stats.steps), 3),
        "rows_per_step": round(stats.rows / max(1, stats.steps), 2),
        "memory_mb_first": round(settled[0], 1),
        "memory_mb_last": round(settled[-1], 1),
    }


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")
