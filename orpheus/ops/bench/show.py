"""What was measured → a table on the console, a JSON file, and a picture where matplotlib is installed.

Measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
            f"({row['requests']} requests)",
        )
        table.add_row("  first audible sample", f"{row['first_sound_ms_p50']:.0f} ms")
        table.add_row(
            "  real-time factor",
            f"{row['real_time_factor_p50']:.3f}, all together {row['times_real_time']:.1f} s a s",
        )
        if "step_ms" in row:
            parts = ", ".join(f"{part} {ms:.2f}" for part, ms in row["step_parts_ms"].items())
            table.add_row("  a step of tier 1", f"{row['step_ms']:.2f} ms ({parts})")
    table.add_row("streams at real time", f"{speech['streams_at_real_time']:.1f}")
    table.add_row(
        f"{speech['listeners_in_real_time']} listening in real time",
        f"{speech['underruns']} underruns, the longest {speech['longest_underrun_ms']} ms",
    )
    costs = result.get("codec_s_per_audio_s", {})
    for way, cost in costs.items():
        table.add_row(
            f"codec, {way.replace('_', ' ')}",
            f"{cost * 1000:.1f} ms of one core for 1 s of audio, {cost / costs['offline']:.2f} × offline",
        )
    for name, rows in result.get("rivals", {}).items():
        told = (
            rows
            if isinstance(rows, str)
            else ", ".join(f"{row['tokens_per_s']:.0f} tokens a second with {row['streams']}" for row in rows)
        )
        table.add_row("tier 1" if name == "ours" else name.replace("_", " "), told)
    out.print(table, markup=False, highlight=False, soft_wrap=True)


def save(result: dict[str, Any], path: Path) -> str:
    """Write the JSON, and the picture beside it; → what was written, in a sentence."""
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    try:
        picture = _draw(result, path.with_suffix(".png"))
    except ImportError:
        return f"Written: {path}. {NO_PICTURE}"
    return f"Written: {path}, {picture}."


def _title(result: dict[str, Any]) -> str:
    if "url" in result:
        return f"{result['url']}, {result['date']}"
    machine = result["machine"]
    return (
        f"{result['model']} on {machine['cores']} cores of {machine['processor']}, "
        f"{machine['gpu'] or 'no GPU'}, {result['date']}"
    )


def _draw(result: dict[str, Any], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result["speech"]["levels"] if "refused" not in row]
    streams = [row["streams"] for row in rows]
    figure, (first, speed, codec) = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    first.plot(streams, [row["first_byte_ms_p50"] for row in rows], "o-", label="first byte")
    first.plot(streams, [row["first_byte_ms_p99"] for row in rows], "o:", label="first byte, 99 of 100")
    first.plot(streams, [row["first_sound_ms_p50"] for row in rows], "o-", label="first sound")
    first.set(xlabel="listeners at once", ylabel="ms", ylim=(0, None), title="How soon")
    first.legend()
    speed.plot(streams, [row["times_real_time"] for row in rows], "o-")
    speed.plot(streams, streams, ":", color="grey", label="real time")
    speed.set(xlabel="listeners at once", ylabel="s of speech a second", ylim=(0, None), title="How much")
    speed.legend()
    for axes in (first, speed):
        axes.set_xticks(streams)
    costs = result.get("codec_s_per_audio_s", {})
    codec.barh([way.replace("_", " ") for way in costs], [cost * 1000 for cost in costs.values()])
    codec.set(xlabel="ms of one core for 1 s of audio", title="Codec" if costs else "Codec: not over a URL")
    figure.suptitle(_title(result), fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
