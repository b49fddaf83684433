"""Milliseconds per codec step on a GPU, with and without graphs, by batch: a table and one JSON line.

    python -m benchmarks.codec_gpu [--device cuda] [--quick]

A step is one frame of every stream at full size, including copies to and from each stream's memory: what the
service runs. `--device cpu` runs the same code at a tiny size with graphs replaced by plain calls, to check it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from snac import SNAC
from torch import Tensor

from benchmarks.codec import FULL
from orpheus.codec.checkpoint import Checkpoint, read_config
from orpheus.codec.decoder import Decoder
from orpheus.codec.graphs import GraphedDecoder, capture_graph
from orpheus.codec.layers import fold
from orpheus.codec.stream import StreamState, advance
from orpheus.vocabulary import FRAME_S, SLOTS

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def call_again(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Takes the place of a graph on a machine without a GPU."""
    out = run()
    return lambda: out.copy_(run()), out


def measure(
    device: str, batches: Sequence[int], rounds: int, config_json: dict[str, object]
) -> dict[str, dict[int, float]]:
    """Median milliseconds per step of one frame, by batch: {"eager": {1: …}, "graph": {1: …}}."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps(config_json))
        torch.save(SNAC(**config_json).state_dict(), folder / "pytorch_model.bin")
        config = read_config(folder)
        network = fold(config, Checkpoint(folder))
    on = torch.device(device)
    decoders = {
        "eager": Decoder(config, network, noise=True, device=on),
        "graph": GraphedDecoder(
            config,
            network,
            noise=True,
            device=on,
            batches=batches,
            capture=capture_graph if on.type == "cuda" else call_again,
        ),
    }
    result: dict[str, dict[int, float]] = {name: {} for name in decoders}
    for decoder in decoders.values():
        decoder.warm_up()
    for batch in batches:
        frame = np.random.default_rng(0).integers(0, config.codes, SLOTS)
        times: dict[str, list[float]] = {name: [] for name in decoders}
        states = {
            name: [StreamState(decoder, seed, 4) for seed in range(batch)]
            for name, decoder in decoders.items()
        }
        for _ in range(rounds):  # interleaved, so that a change of clocks affects both
            for name, decoder in decoders.items():
                for state in states[name]:
                    state.push(frame)
                start = time.perf_counter()
                advance(decoder, states[name], 4)  # waits for the GPU: it ends with the samples on the host
                times[name].append((time.perf_counter() - start) * 1000)
        for name, values in times.items():
            result[name][batch] = round(statistics.median(values[rounds // 4 :]), 3)
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--quick", action="store_true", help="fewer rounds")
    options = arguments.parse_args()
    if options.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise SystemExit("No CUDA device here. --device cpu checks the code at a tiny size.")
        name, config = torch.cuda.get_device_name(options.device), FULL
    else:
        name = "cpu, tiny size: not a measurement"
        config = {**FULL, "decoder_dim": 32, "encoder_dim": 4, "codebook_size": 16}
    steps = measure(options.device, BATCHES, 20 if options.quick else 100, config)
    print(f"{name}: ms per step of one frame\n  batch    eager    graph   streams at real time")
    streams = {}
    for batch in BATCHES:
        eager, graph = steps["eager"][batch], steps["graph"][batch]
        streams[batch] = int(batch * FRAME_S * 1000 / graph)
        print(f"  {batch:5d} {eager:8.3f} {graph:8.3f}   {streams[batch]}")
    print(json.dumps({"device": name, "ms_per_step": steps, "streams_realtime": streams}))


if __name__ == "__main__":
    main()
