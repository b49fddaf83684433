"""A machine or a URL → how soon, how fast and for how many it speaks: a table, JSON and a picture.

bench.py is the order of things; listening.py, load.py, servers.py and codec_cost.py each measure one; the larger
benchmarks in the repository are made of the same parts. The service knows nothing of it.
"""
