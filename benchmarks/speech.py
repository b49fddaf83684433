"""What `orpheus bench` measures of the embedded pair on this machine, for longer.

    python -m benchmarks.speech [--quick]

A table, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from orpheus.ops.bench.bench import heading, machine, speech_here
from orpheus.ops.bench.show import show
from orpheus.settings import EMBEDDED, load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="as long as `orpheus bench` takes")
    effort = 1 if parser.parse_args().quick else 5
    settings = load_settings(model=EMBEDDED, codec=EMBEDDED)
    speech = speech_here(settings, lambda what: print(what, flush=True), effort)
    result = {**heading(), "machine": machine(), "model": EMBEDDED, "speech": speech}
    show(result, Console(width=200))
    del speech["wave"]
    levels = {
        f"{name}_{row['streams']}": value
        for row in speech.pop("levels")
        for name, value in row.items()
        if name.startswith(("first_", "times_"))
    }
    print(json.dumps({**levels, "max_gap_ms": max(speech["pauses_ms"]), **speech}))


if __name__ == "__main__":
    main()
