"""Everything `orpheus bench` measures, as one dictionary that becomes the table, the JSON and the picture.

On this machine it starts the pair as `orpheus serve` does and measures it over HTTP like any other, and then what cannot
be measured over HTTP: steps of tier 1, what tier 2 adds to it, the codec alone, the rivals of tier 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from orpheus import __version__, weights
from orpheus.errors import AtCapacity, SetupError
from orpheus.ops.bench import listening
from orpheus.ops.bench.listening import CHAPTER, SENTENCE, PlaybackReport, client, together
from orpheus.ops.serve import running_pair
from orpheus.settings import Settings

STREAMS = (1, 4, 8, 16)
LEVEL_S = 8.0  # of asking, at each number of streams
ROUNDS = 8  # of asking tier 1 and tier 2 in turn
LOAD = 0.8  # of the measured capacity, for listeners in real time
LOAD_CHARS = 600
MOST_LISTENERS = 64
Progress = Callable[[str], None]


def bench_url(url: str, headers: dict[str, str], progress: Progress) -> dict[str, Any]:
    """A running pair, over HTTP alone."""
    return {**heading(), "url": url, "speech": measure_speech(url, headers, None, progress)}


def bench_here(settings: Settings, progress: Progress) -> dict[str, Any]:
    """This machine, with the weights its settings name."""
    from orpheus.ops.bench.codec import codec_cost
    from orpheus.ops.bench.rivals import measure_rivals

    model, codec = weights.find_model(settings), weights.find_codec(settings)
    result = {
        **heading(),
        "machine": machine(),
        "model": weights.model_name(settings),
        "codec": weights.codec_name(settings),
        "speech": speech_here(settings, progress),
    }
    progress("codec alone")
    result["codec_s_per_audio_s"] = {way: round(cost, 5) for way, cost in codec_cost(codec).items()}
    result["rivals"] = measure_rivals(model, settings.cpu_threads, progress)
    return result


def speech_here(settings: Settings, progress: Progress, effort: int = 1) -> dict[str, Any]:
    """`measure_speech` of a pair started here, and what tier 2 adds to tier 1."""
    progress("starting both tiers")
    headers = settings.client_headers
    streams = str(max(*STREAMS, settings.streams or 0))
    with running_pair(settings, ORPHEUS_STREAMS=streams) as pair:
        result = measure_speech(pair.url, headers, pair.llama_url, progress, effort)
    progress("tier 2 against tier 1 alone")
    # Trimming the silence before the first word would delay the first byte.
    with running_pair(settings, ORPHEUS_POSTPROCESS="false") as pair:
        ours, theirs = asyncio.run(_first_bytes_s(pair.url, headers, pair.llama_url, ROUNDS * effort))
    return result | {
        "tier1_two_frames_ms": round(statistics.median(theirs) * 1000, 1),
        "tier2_overhead_ms": round((statistics.median(ours) - statistics.median(theirs)) * 1000, 2),
    }


def hold_here(settings: Settings, seconds: float, progress: Progress, load: float = LOAD) -> dict[str, Any]:
    """A pair started here at a share of its capacity for so long: as one listener has heard all, another comes."""
    progress("starting both tiers")
    headers = settings.client_headers
    with running_pair(settings, ORPHEUS_STREAMS=str(MOST_LISTENERS)) as pair:
        _pace(pair.url, headers, 1)  # to warm up
        _, capacity = _pace(pair.url, headers, max(STREAMS))
        listeners = max(1, min(int(load * capacity), MOST_LISTENERS))
        progress(f"{listeners} in real time for {seconds:g} s")
        waits = _first_byte_parts(pair.url, pair.llama_url)
        reports = asyncio.run(listening.held(pair.url, CHAPTER, listeners, seconds, headers))
        waited_ms = _mean_ms(waits, _first_byte_parts(pair.url, pair.llama_url))
    bytes_ms = [report.first_byte_s * 1000 for report in reports]
    return {
        "streams_at_real_time": round(capacity, 2),
        "listeners_in_real_time": listeners,
        "seconds": seconds,
        "requests": len(reports),
        "audio_s": round(sum(report.audio_s for report in reports), 1),
        "first_byte_ms_p50": round(listening.quantile(bytes_ms, 0.5), 1),
        "first_byte_ms_p99": round(listening.quantile(bytes_ms, 0.99), 1),
        **_first_byte_ms(statistics.mean(bytes_ms), waited_ms),
        "underruns": sum(report.playout.underruns for report in reports),
        "longest_underrun_ms": round(max(report.playout.longest_underrun_s for report in reports) * 1000),
    }


def measure_speech(
    url: str, headers: dict[str, str], llama_url: str | None, progress: Progress, effort: int = 1
) -> dict[str, Any]:
    """First byte and sound at each number of streams, pauses, and listeners in real time at LOAD of the capacity.

    `effort` multiplies how long each takes.
    """
    progress("one listener, to warm up")
    asyncio.run(together(url, SENTENCE, 1, 2, headers))
    rows: list[dict[str, Any]] = []
    for streams in STREAMS:
        progress(f"{streams} listeners at once" if streams > 1 else "one listener")
        try:
            rows.append(_level(url, headers, streams, llama_url, LEVEL_S * effort))
        except AtCapacity as error:
            rows.append({"streams": streams, "refused": str(error)})
            break
    served = [row for row in rows if "refused" not in row]
    capacity = max((row["times_real_time"] for row in served), default=0.0)
    most = min(max((row["streams"] for row in served), default=1), MOST_LISTENERS)
    listeners = max(1, min(int(LOAD * capacity), most))
    progress(f"{listeners} in real time")
    text = (CHAPTER * 4 * effort)[: LOAD_CHARS * effort]
    reports = asyncio.run(together(url, text, listeners, headers=headers, every_s=0.5))
    pcm, starts_s = asyncio.run(listening.listen_to_segments(url, CHAPTER, 7, headers))
    return {
        "levels": rows,
        "streams_at_real_time": capacity,
        "listeners_in_real_time": listeners,
        "underruns": sum(report.playout.underruns for report in reports),
        "longest_underrun_ms": round(max(report.playout.longest_underrun_s for report in reports) * 1000),
        "pauses_ms": [round(pause_s * 1000) for pause_s in listening.pauses_s(pcm, starts_s)],
        "wave": {"pcm": pcm, "segments_s": starts_s},
    }


def _level(
    url: str, headers: dict[str, str], streams: int, llama_url: str | None, seconds: float
) -> dict[str, Any]:
    before, waits, started_s = _steps(llama_url), _first_byte_parts(url, llama_url), time.perf_counter()
    reports: list[PlaybackReport] = []
    while not reports or time.perf_counter() - started_s < seconds:
        # Other seeds each time: some begin with a silence of one frame, which is trimmed and awaited.
        reports += asyncio.run(together(url, SENTENCE, streams, 1, headers, first_seed=len(reports)))
    waited_ms = _mean_ms(waits, _first_byte_parts(url, llama_url))
    factor, times_real_time = _pace(url, headers, streams)
    bytes_ms = [report.first_byte_s * 1000 for report in reports]
    sounds_ms = [report.first_sound_s * 1000 for report in reports]
    return {
        "streams": streams,
        "requests": len(reports),
        "first_byte_ms_p50": round(listening.quantile(bytes_ms, 0.5), 1),
        "first_byte_ms_p99": round(listening.quantile(bytes_ms, 0.99), 1),
        "first_sound_ms_p50": round(listening.quantile(sounds_ms, 0.5), 1),
        "first_sound_ms_p99": round(listening.quantile(sounds_ms, 0.99), 1),
        "underruns": sum(report.playout.underruns for report in reports),
        "real_time_factor_p50": round(factor, 4),
        "times_real_time": round(times_real_time, 2),
        **_first_byte_ms(statistics.mean(bytes_ms), waited_ms),
        **_step_ms(before, _steps(llama_url)),
    }


def _pace(url: str, headers: dict[str, str], streams: int) -> tuple[float, float]:
    """Of so many chapters at once: the median real-time factor, and seconds of audio a second, all together.

    A sentence shows how soon; how fast takes an answer long enough that its start and end count for little.
    """
    started_s = time.perf_counter()
    chapters = asyncio.run(together(url, CHAPTER, streams, 1, headers))
    took_s = time.perf_counter() - started_s
    factor = listening.quantile([report.wall_s / report.audio_s for report in chapters], 0.5)
    return factor, sum(report.audio_s for report in chapters) / took_s


def _first_byte_parts(url: str, llama_url: str | None) -> dict[str, tuple[float, float]]:
    """Seconds that first bytes waited and how many there were so far, by part, as both tiers count them."""
    if llama_url is None:
        return {}
    tier_1, tier_2 = (
        listening.read_metrics(httpx.get(f"{tier}/metrics", timeout=10, trust_env=False).text)
        for tier in (llama_url, url)
    )
    return _by_part(tier_1, "orpheus_first_frame_part_seconds", "tier_1_") | _by_part(
        tier_2, "orpheus_speech_first_byte_part_seconds"
    )


def _by_part(counted: dict[str, float], summary: str, prefix: str = "") -> dict[str, tuple[float, float]]:
    """Sum and count of a summary, by its label `part`."""
    return {
        prefix + match[2]: (seconds, counted[f"{summary}_count{match[1]}"])
        for name, seconds in counted.items()
        if (match := re.fullmatch(summary + r'_sum(\{part="(\w+)"\})', name))
    }


def _mean_ms(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]], digits: int = 1
) -> dict[str, float]:
    """Milliseconds per count since `before`, by part."""
    means = {}
    for part, (seconds, count) in after.items():
        seconds_before, count_before = before.get(part, (0.0, 0.0))
        means[part] = round((seconds - seconds_before) * 1000 / max(1, count - count_before), digits)
    return means


def _first_byte_ms(mean_ms: float, waited_ms: dict[str, float]) -> dict[str, Any]:
    """The mean first byte by part. `tier_1_…` lie within tier 2's `first_frame`; `http` is what neither tier counts:
    the request on its way in, the first byte on its way out, and the client.
    """
    if not waited_ms:
        return {}
    counted_ms = sum(ms for part, ms in waited_ms.items() if not part.startswith("tier_1_"))
    return {"first_byte_parts_ms": {**waited_ms, "http": round(mean_ms - counted_ms, 1)}}


def _steps(llama_url: str | None) -> dict[str, tuple[float, float]]:
    """Seconds spent and steps made so far, by part of a step, as tier 1 counts them."""
    if llama_url is None:
        return {}
    counted = listening.read_metrics(httpx.get(f"{llama_url}/metrics", timeout=10, trust_env=False).text)
    return _by_part(counted, "orpheus_step_seconds")


def _step_ms(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, Any]:
    if not after:
        return {}
    parts = _mean_ms(before, after, 3)
    return {"step_ms": round(sum(parts.values()), 3), "step_parts_ms": parts}


async def _first_bytes_s(
    url: str, headers: dict[str, str], llama_url: str, rounds: int
) -> tuple[list[float], list[float]]:
    """Tier 2's first byte, and the two frames of tier 1 it needs: in turn, so that noise affects both."""
    ours, theirs = [], []
    async with client(llama_url) as tier_1, client(url, headers) as tier_2:
        for seed in range(rounds + 1):
            theirs.append(await listening.frames_from_tier_1(tier_1, SENTENCE, 2, seed))
            ours.append((await listening.listen(tier_2, SENTENCE, seed)).first_byte_s)
    return ours[1:], theirs[1:]  # the first warms up


def heading() -> dict[str, Any]:
    """When it was measured, and with which version."""
    return {"date": datetime.now().astimezone().isoformat(timespec="seconds"), "version": __version__}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    gpu = None
    with contextlib.suppress(ModuleNotFoundError, SetupError):  # a machine that only asks another
        from orpheus.gpu import find_gpu

        gpu = find_gpu()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu and gpu.description,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
