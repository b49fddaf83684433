"""Benchmarks of this repository: `python -m benchmarks.NAME --quick`. Each ends with one JSON object on a line."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
