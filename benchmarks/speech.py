"""What `orpheus bench` measures of the embedded pair on this machine, for longer.

    python -m benchmarks.speech [--quick]
    python -m benchmarks.speech --hold 600 [--load 0.8]

A table, a picture in benchmarks/results/speech.png, and one JSON object on the last line. With `--hold`, only that
object: for so many seconds, listeners in real time at a share of what the machine carries, and how often one ran dry.
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from benchmarks import RESULTS
from orpheus.ops.bench.bench import LOAD, heading, hold_here, machine, speech_here
from orpheus.ops.bench.show import draw, save_picture, show
from orpheus.settings import EMBEDDED, Settings, load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="as long as `orpheus bench` takes")
    parser.add_argument(
        "--hold", type=float, metavar="SECONDS", help="listeners in real time alone, for so long"
    )
    parser.add_argument("--load", type=float, default=LOAD, help=f"of the capacity, with --hold ({LOAD})")
    options = parser.parse_args()
    settings = load_settings(model=EMBEDDED, codec=EMBEDDED)
    if options.hold:
        print(json.dumps(hold_here(settings, options.hold, _progress, options.load)))
    else:
        _everything(settings, effort=1 if options.quick else 5)


def _everything(settings: Settings, effort: int) -> None:
    speech = speech_here(settings, _progress, effort)
    result = {**heading(), "machine": machine(), "model": EMBEDDED, "speech": speech}
    show(result, Console(width=200))
    wave = speech.pop("wave")
    save_picture(RESULTS / "speech.png", lambda pyplot: draw(pyplot, result, wave))
    levels = {
        f"{name}_{row['streams']}": value
        for row in speech.pop("levels")
        for name, value in row.items()
        if name.startswith(("first_", "times_", "underruns"))
    }
    print(json.dumps({**levels, "max_gap_ms": max(speech["pauses_ms"]), **speech}))


def _progress(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    main()
