"""Results as a table on the console, a JSON file, and a picture if matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from orpheus.ops.bench.listening import RATE

NO_PICTURE = "No picture: pip install matplotlib draws one."


def show(result: dict[str, Any], out: Console) -> None:
    """One table: what, figure."""
    table = Table("what", "figure", box=None, pad_edge=False, title=_title(result), title_justify="left")
    speech = result["speech"]
    for row in speech["levels"]:
        name = "one listener" if row["streams"] == 1 else f"{row['streams']} listeners at once"
        if "refused" in row:
            table.add_row(name, row["refused"])
            continue
        table.add_row(
            f"{name}: first byte",
            f"{row['first_byte_ms_p50']:.0f} ms, 99 of 100 within {row['first_byte_ms_p99']:.0f} "
            f"({row['requests']} requests, {row['underruns']} underruns)",
        )
        if "first_byte_parts_ms" in row:
            parts = row["first_byte_parts_ms"].items()
            table.add_row("  mean wait for it", ", ".join(f"{part} {ms:.0f}" for part, ms in parts) + " ms")
        table.add_row(
            "  first audible sample",
            f"{row['first_sound_ms_p50']:.0f} ms, 99 of 100 within {row['first_sound_ms_p99']:.0f}",
        )
        table.add_row(
            "  real-time factor",
            f"{row['real_time_factor_p50']:.3f}, all together {row['times_real_time']:.1f} s a second",
        )
        if "step_ms" in row:
            parts = ", ".join(f"{part} {ms:.2f}" for part, ms in row["step_parts_ms"].items())
            table.add_row("  a step of tier 1", f"{row['step_ms']:.2f} ms ({parts})")
    table.add_row("streams at real time", f"{speech['streams_at_real_time']:.1f}")
    table.add_row(
        f"{speech['listeners_in_real_time']} listening in real time",
        f"{speech['underruns']} underruns, the longest {speech['longest_underrun_ms']} ms",
    )
    table.add_row(
        "pauses between segments", ", ".join(f"{pause_ms}" for pause_ms in speech["pauses_ms"]) + " ms"
    )
    if "tier2_overhead_ms" in speech:
        table.add_row(
            "two frames from tier 1",
            f"{speech['tier1_two_frames_ms']:.0f} ms, tier 2 adds {speech['tier2_overhead_ms']:.1f}, untrimmed",
        )
    costs = result.get("codec_s_per_audio_s", {})
    for way, cost in costs.items():
        table.add_row(
            f"codec, {way.replace('_', ' ')}",
            f"{cost * 1000:.1f} ms of one core for 1 s of audio, {cost / costs['offline']:.2f} × offline",
        )
    for name, rows in result.get("rivals", {}).items():
        figure = (
            rows
            if isinstance(rows, str)
            else ", ".join(f"{row['tokens_per_s']:.0f} tokens a second with {row['streams']}" for row in rows)
        )
        table.add_row("tier 1" if name == "ours" else name.replace("_", " "), figure)
    out.print(table, markup=False, highlight=False, soft_wrap=True)


def save(result: dict[str, Any], path: Path) -> str:
    """Write the JSON, and the picture beside it. Returns a sentence that names what was written."""
    wave = result["speech"].pop("wave", None)  # for the picture alone
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    picture = path.with_suffix(".png")
    drawn = save_picture(picture, lambda pyplot: draw(pyplot, result, wave))
    return f"Written: {path}, {picture}." if drawn else f"Written: {path}. {NO_PICTURE}"


def save_picture(path: Path, draw: Callable[[Any], Any]) -> bool:
    """Write the figure that `draw` makes with matplotlib's pyplot; False if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = draw(pyplot)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _title(result: dict[str, Any]) -> str:
    if "url" in result:
        return f"{result['url']}, {result['date']}"
    machine = result["machine"]
    return (
        f"{result['model']} on {machine['cores']} cores of {machine['processor']}, "
        f"{machine['gpu'] or 'no GPU'}, {result['date']}"
    )


def draw(pyplot: Any, result: dict[str, Any], wave: dict[str, Any] | None) -> Any:
    """The figure of one result, and of the speech whose samples and segments are in `wave`."""
    rows = [row for row in result["speech"]["levels"] if "refused" not in row]
    streams = [row["streams"] for row in rows]
    figure, axes = pyplot.subplot_mosaic(
        [["soon", "much", "codec"], ["wave"] * 3], figsize=(13, 6.4), layout="constrained"
    )
    soon, much, codec = axes["soon"], axes["much"], axes["codec"]
    soon.plot(streams, [row["first_byte_ms_p50"] for row in rows], "o-", label="first byte")
    soon.plot(streams, [row["first_byte_ms_p99"] for row in rows], "o:", label="first byte, 99 of 100")
    soon.plot(streams, [row["first_sound_ms_p50"] for row in rows], "o-", label="first sound")
    soon.set(ylabel="ms", ylim=(0, None), title="How soon")
    much.plot(streams, [row["times_real_time"] for row in rows], "o-")
    much.plot(streams, streams, ":", color="grey", label="real time")
    much.set(ylabel="s of speech a second", ylim=(0, None), title="How much")
    for axis in (soon, much):
        axis.set(xlabel="listeners at once", xticks=streams)
        axis.legend()
    costs = result.get("codec_s_per_audio_s", {})
    codec.barh([way.replace("_", " ") for way in costs], [cost * 1000 for cost in costs.values()])
    codec.set(xlabel="ms of one core for 1 s of audio", title="Codec" if costs else "Codec: not over a URL")
    if not costs:
        codec.set_axis_off()
    if wave:
        axes["wave"].plot(np.arange(len(wave["pcm"])) / RATE, wave["pcm"], linewidth=0.3)
        axes["wave"].vlines(wave["segments_s"], -1, 1, color="tab:red")
        axes["wave"].set(ylim=(-1, 1), xlabel="seconds", title="One text and where its segments begin")
    figure.suptitle(_title(result), fontsize=9)
    return figure
