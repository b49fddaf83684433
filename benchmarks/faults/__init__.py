"""Hostile peers: clients, a tier 1 and set-ups that do what they should not, and what must hold all the same.

`hostile`, `wire` and `bodies` attack a server, `broken_tier1` answers one, `fronts` are the ways to be heard; tests use
these too. `python -m benchmarks.faults` runs all of it against real processes.
"""
