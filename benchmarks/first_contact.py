"""The first minutes on a card: what the CPU could not check, one after the other, and one line for each at the end.

    python -m benchmarks.first_contact [--doctor | --tiny]

Runs the tests that need a GPU, the codec's graphs against the same steps without, and Orpheus-3B's shape with random
weights at 1, 8 and 32 streams. `--doctor` adds `orpheus doctor --real`, which fetches the published weights first;
`--tiny` runs the same parts at a tiny size on any machine, to check them. Each part is a process of its own, so that
what crashes one leaves the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

PARTS = {
    "tests that need a GPU": ["-m", "pytest", "-q", "-m", "gpu", "tests/codec", "tests/llama"],
    "codec": ["-m", "benchmarks.codec_gpu", "--quick"],
    "engine": ["-m", "benchmarks.engine_gpu", "--quick", "--steps", "20"],
}
TINY = {
    "codec": ["-m", "benchmarks.codec_gpu", "--cpu"],
    "engine": ["-m", "benchmarks.engine_gpu", "--tiny", "--steps", "5"],
}
DOCTOR = {"doctor": ["-m", "orpheus", "doctor", "--real"]}


def main() -> int:
    """Run every part. Returns how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--doctor", action="store_true", help="the published weights, too: about 4 GB")
    parser.add_argument("--tiny", action="store_true", help="any machine, tiny sizes: not a measurement")
    chosen = parser.parse_args()
    parts = PARTS | (TINY if chosen.tiny else {}) | (DOCTOR if chosen.doctor else {})
    lines: list[str] = []
    failed = 0
    for name, arguments in parts.items():
        print(f"\n== {name}: {' '.join(['python', *arguments])}", flush=True)
        began_s = time.monotonic()
        code = subprocess.run([sys.executable, *arguments], check=False).returncode
        failed += code != 0
        outcome = "passed" if code == 0 else f"failed with exit code {code}"
        lines.append(f"{name}: {outcome} in {time.monotonic() - began_s:.0f} s")
    print("\n== " + "\n== ".join(lines))
    return failed


if __name__ == "__main__":
    sys.exit(main())
