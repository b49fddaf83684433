"""Settings, or a URL → everything measured, as one dictionary that becomes the table, the JSON and the picture.

Locally it starts the pair as `orpheus serve` does and asks it over HTTP like any other; what a URL cannot tell,
steps, codec and rivals, is measured on this machine. Knows nothing of how it is shown.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from orpheus import __version__, weights
from orpheus.errors import AtCapacity, NotReady
from orpheus.ops.bench.listening import CHAPTER, SENTENCE, Heard, one_by_one, quantile, together
from orpheus.ops.bench.pair import running_pair
from orpheus.ops.doctor import remote
from orpheus.ops.doctor.check import Waiting
from orpheus.settings import Settings

STREAMS = (1, 4, 8, 16)
LEVEL_S = 8.0  # of asking, at each number of streams
LOAD = 0.8  # of what was found to be possible, for listeners in real time
LOAD_CHARS = 600
MOST_LISTENERS = 64
Say = Callable[[str], None]


def bench_url(url: str, headers: dict[str, str], say: Say, cold_wait_s: float = 0) -> dict[str, Any]:
    """A running pair, over HTTP alone; one that sleeps is waited for, as the doctor does. NotReady with what is wrong."""
    for found in remote.server(url, headers, cold_wait_s):
        if isinstance(found, Waiting):
            say(found.for_what)
        elif found.status == "failed":
            raise NotReady(f"{url} cannot be measured: {found.said}")
    return {**_heading(), "url": url, "speech": measure_speech(url, headers, None, say)}


def bench_here(settings: Settings, say: Say) -> dict[str, Any]:
    """This machine with the weights its settings name."""
    from orpheus.ops.bench.codec_cost import codec_cost
    from orpheus.ops.bench.rivals import measure_rivals

    model, codec = weights.find_model(settings), weights.find_codec(settings)
    result = {
        **_heading(),
        "machine": machine(),
        "model": weights.model_name(settings),
        "codec": weights.codec_name(settings),
    }
    say("starting both tiers")
    with running_pair(settings, max(STREAMS)) as (url, llama_url):
        result["speech"] = measure_speech(url, settings.client_headers, llama_url, say)
    say("codec alone")
    result["codec_s_per_audio_s"] = {way: round(cost, 5) for way, cost in codec_cost(codec).items()}
    result["rivals"] = measure_rivals(model, say)
    return result


def measure_speech(url: str, headers: dict[str, str], llama_url: str | None, say: Say) -> dict[str, Any]:
    """First byte and sound at each number of streams, and how listeners in real time fare at 80% of capacity."""
    say("one listener, to warm up")
    asyncio.run(together(url, SENTENCE, 1, 2, headers))
    rows: list[dict[str, Any]] = []
    for streams in STREAMS:
        say(f"{streams} listeners at once" if streams > 1 else "one listener")
        try:
            rows.append(_level(url, headers, streams, llama_url))
        except AtCapacity as error:
            rows.append({"streams": streams, "refused": str(error)})
            break
    capacity = max((row["times_real_time"] for row in rows if "refused" not in row), default=0.0)
    result: dict[str, Any] = {"levels": rows, "streams_at_real_time": capacity}
    allowed = max(row["streams"] for row in rows if "refused" not in row) if capacity else 1
    listeners = max(1, min(int(LOAD * capacity), allowed, MOST_LISTENERS))
    say(f"{listeners} in real time")
    heard = asyncio.run(one_by_one(url, (CHAPTER * 9)[:LOAD_CHARS], listeners, 0.5, headers))
    return result | {
        "listeners_in_real_time": listeners,
        "underruns": sum(one.player.underruns for one in heard),
        "longest_underrun_ms": round(max(one.player.longest_underrun_s for one in heard) * 1000),
    }


def _level(url: str, headers: dict[str, str], streams: int, llama_url: str | None) -> dict[str, Any]:
    before, began = _steps(llama_url), time.perf_counter()
    heard: list[Heard] = []
    while not heard or time.perf_counter() - began < LEVEL_S:
        heard += asyncio.run(together(url, SENTENCE, streams, 1, headers))
    # A sentence shows how soon; how fast takes an answer long enough that its start and end count for little.
    began = time.perf_counter()
    answers = asyncio.run(together(url, CHAPTER, streams, 1, headers))
    took_s = time.perf_counter() - began
    bytes_, sounds = [one.first_byte_s for one in heard], [one.first_sound_s for one in heard]
    return {
        "streams": streams,
        "requests": len(heard),
        "first_byte_ms_p50": round(quantile(bytes_, 0.5) * 1000, 1),
        "first_byte_ms_p99": round(quantile(bytes_, 0.99) * 1000, 1),
        "first_sound_ms_p50": round(quantile(sounds, 0.5) * 1000, 1),
        "real_time_factor_p50": round(quantile([one.wall_s / one.audio_s for one in answers], 0.5), 4),
        "times_real_time": round(sum(one.audio_s for one in answers) / took_s, 2),
        **_since(before, _steps(llama_url)),
    }


def _steps(llama_url: str | None) -> dict[str, tuple[float, float]]:
    """Seconds spent and steps made so far, by part of a step, as tier 1 counts them."""
    if llama_url is None:
        return {}
    text = httpx.get(f"{llama_url}/metrics", timeout=10, trust_env=False).text
    found: dict[str, dict[str, float]] = {"sum": {}, "count": {}}
    for what, part, value in re.findall(r'orpheus_step_seconds_(sum|count)\{part="(\w+)"\} (\S+)', text):
        found[what][part] = float(value)
    return {part: (found["sum"][part], found["count"][part]) for part in found["sum"]}


def _since(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, Any]:
    if not after:
        return {}
    steps = {
        part: round((after[part][0] - before[part][0]) * 1000 / max(1, after[part][1] - before[part][1]), 3)
        for part in after
    }
    return {"step_ms": round(sum(steps.values()), 3), "step_parts_ms": steps}


def _heading() -> dict[str, Any]:
    return {"date": datetime.now().astimezone().isoformat(timespec="seconds"), "version": __version__}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    gpu = None
    if weights.gpu_at_hand():
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "one that llama.cpp uses"
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
