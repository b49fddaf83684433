"""How the embedded voice was made: texts → speech → codes → codec → language model → GGUF.

Each stage is one file, reads what the stage before it wrote, and can be stopped and started at any time.
`python -m training --size full --out DIR` runs them all; `--size smoke` does so in about a minute.
"""
