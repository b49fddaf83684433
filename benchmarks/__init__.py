"""Benchmarks of this repository: `python -m benchmarks.NAME --quick`. Each ends with one JSON object on a line."""
