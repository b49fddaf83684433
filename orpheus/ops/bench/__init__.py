"""How soon, how fast and for how many listeners a machine or a running pair speaks.

bench.py has the order of the measurements, show.py makes the table, the JSON and the picture; the benchmarks of the
repository are made of the same parts.
"""
