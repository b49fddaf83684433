"""Milliseconds a codec step takes on a GPU, with and without graphs, by batch.

    python -m benchmarks.codec_gpu [--device cuda] [--quick]

A step is one frame of every stream at full size, copies to and from each stream's memory included: what the service
runs. `--device cpu` runs the same code at a tiny size without graphs, to check it. A table, and one JSON object on the
last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.codec import FULL, save_random
from orpheus.codec.decoder import Decoder
from orpheus.codec.graphs import GraphedDecoder
from orpheus.codec.stream import StreamState, advance
from orpheus.vocabulary import FRAME_S, SLOTS

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def step_ms(decoders: dict[str, Decoder], batch: int, rounds: int) -> dict[str, float]:
    """The median of a step of one frame for each decoder; they take turns, so that a change of clock speed affects all."""
    states = {
        name: [StreamState(decoder, seed, 4) for seed in range(batch)] for name, decoder in decoders.items()
    }
    times_ms: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decoder in decoders.items():
            frame = np.random.default_rng(0).integers(0, decoder.config.codes, SLOTS)
            for state in states[name]:
                state.add_codes(frame)
            started_s = time.perf_counter()
            advance(decoder, states[name], 4)  # ends with the samples on the host, so it waits for the GPU
            times_ms[name].append((time.perf_counter() - started_s) * 1000)
    return {name: round(statistics.median(times[rounds // 4 :]), 3) for name, times in times_ms.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise SystemExit("No CUDA device here. --device cpu checks the code at a tiny size.")
    card = torch.cuda.get_device_name(options.device) if cuda else "cpu, tiny size: not a measurement"
    config = FULL if cuda else {**FULL, "decoder_dim": 32, "encoder_dim": 4, "codebook_size": 16}
    with tempfile.TemporaryDirectory() as temporary:
        decoder = Decoder.load(save_random(Path(temporary), config), device=options.device)
    decoders = {"eager": decoder}
    if cuda:
        decoders["graph"] = GraphedDecoder(
            decoder.config,
            decoder.network,
            noise=True,
            device=decoder.device,
            batches=BATCHES,
        )
    for each in decoders.values():
        each.warm_up()
    steps: dict[str, dict[int, float]] = {name: {} for name in decoders}
    streams = {}
    print(
        f"{card}: ms a step of one frame\n  batch {''.join(f'{name:>9s}' for name in steps)}   streams at real time"
    )
    for batch in BATCHES:
        times = step_ms(decoders, batch, 20 if options.quick else 100)
        for name, ms in times.items():
            steps[name][batch] = ms
        streams[batch] = int(batch * FRAME_S * 1000 / list(times.values())[-1])
        print(f"  {batch:5d} {''.join(f'{ms:9.3f}' for ms in times.values())}   {streams[batch]}")
    print(json.dumps({"device": card, "ms_per_step": steps, "streams_realtime": streams}))


if __name__ == "__main__":
    main()
