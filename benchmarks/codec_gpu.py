"""The codec on a GPU: equality with the CPU, frames a second with and without graphs, memory. Under two minutes.

    python -m benchmarks.codec_gpu [--device cuda:N] [--quick]
    python -m benchmarks.codec_gpu --cpu        # any machine: the same shapes, tiny and without a GPU's graphs

A step is one frame of every stream at full size with random weights, on which cost does not depend, copies to and from
each stream's memory included: what the service runs. One JSON object on the last line; exit code 1 if the GPU's samples
are not the CPU's, or there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.codec import FULL, save_random
from orpheus.codec.checkpoint import LATENTS_PER_FRAME
from orpheus.codec.decoder import Decoder
from orpheus.codec.graphs import GraphedDecoder
from orpheus.codec.stream import StreamState, advance, decode_all
from orpheus.vocabulary import FRAME_S, SLOTS

TINY = {**FULL, "decoder_dim": 32, "encoder_dim": 4, "codebook_size": 16}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COMPARED = (
    1,
    3,
    5,
    65,
)  # streams at once, which end at different frames; 65 are more than the service's largest graph
BUDGET_S = 3.0  # for each batch
# From float64 float32 differs by 127 dB with these weights, and by 74 if those of the depthwise convolutions are TF32
# (AMD EPYC, 2026-11-30).
LEAST_SNR_DB = 90.0


def replay_by_call(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Takes the place of a CUDA graph on a CPU."""
    out = run()
    return lambda: out.copy_(run()), out


def speak(decoder: Decoder, codes: list[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Each row's samples, a frame of every row at a time; rows end when their codes do."""
    states = [StreamState(decoder, seed, 4) for seed in range(len(codes))]
    samples: list[list[NDArray[np.float32]]] = [[] for _ in codes]
    for start in range(0, max(map(len, codes)), SLOTS):
        for state, row in zip(states, codes, strict=True):
            state.add_codes(row[start : start + SLOTS])
            if start + SLOTS >= len(row):
                state.finish()
        for parts, part in zip(samples, decode_all(decoder, states), strict=True):
            parts.append(part)
    return [np.concatenate(parts) for parts in samples]


def equality(decoder: Decoder, reference: Decoder) -> dict[str, float]:
    """Signal to noise and largest difference from `reference`, which runs on the CPU, of streams of 3 to 7 frames."""
    rng = np.random.default_rng(0)
    worst_db, largest = np.inf, 0.0
    for streams in COMPARED:
        codes = [rng.integers(0, decoder.config.codes, SLOTS * (3 + row % 5)) for row in range(streams)]
        for got, expected in zip(speak(decoder, codes), speak(reference, codes), strict=True):
            difference = (got - expected).astype(np.float64)
            signal = float(np.square(expected, dtype=np.float64).mean())
            noise = max(float(np.square(difference).mean()), signal * 1e-20)  # JSON has no infinity
            worst_db = min(worst_db, 10 * np.log10(signal / noise))
            largest = max(largest, float(np.abs(difference).max()))
    return {"snr_db": round(float(worst_db), 1), "largest_difference": float(f"{largest:.2g}")}


def step_ms(decoders: dict[str, Decoder], batch: int, budget_s: float) -> dict[str, float]:
    """The median of a step of one frame for each decoder; they take turns, so that a change of clock speed affects all."""
    states = {
        name: [StreamState(decoder, seed, 4) for seed in range(batch)] for name, decoder in decoders.items()
    }
    times_ms: dict[str, list[float]] = {name: [] for name in decoders}
    frame = np.random.default_rng(0).integers(0, next(iter(decoders.values())).config.codes, SLOTS)
    ends_s = time.perf_counter() + budget_s
    while len(times_ms["eager"]) < 4 or time.perf_counter() < ends_s:
        for name, decoder in decoders.items():
            for state in states[name]:
                state.add_codes(frame)
            started_s = time.perf_counter()
            advance(decoder, states[name], LATENTS_PER_FRAME)  # ends with samples on the host, so it waits
            times_ms[name].append((time.perf_counter() - started_s) * 1000)
            for state in states[name]:
                state.take()
    return {name: round(statistics.median(times[len(times) // 4 :]), 3) for name, times in times_ms.items()}


def convolution_ms(decoder: Decoder, streams: int) -> dict[str, float | str]:
    """A depthwise convolution of the last block, a frame of `streams`: by torch's own kernel, copies included, and cuDNN's."""
    conv, device = decoder.network.blocks[-1].units[-1].conv, decoder.device
    rows = torch.randn(
        LATENTS_PER_FRAME * decoder.hop + 6 * conv.dilation, streams, len(conv.bias), device=device
    )
    image = rows.view(1, 1, -1, len(conv.bias)).permute(0, 3, 1, 2)
    dilation = (2, conv.dilation * streams)

    def cudnn() -> Tensor:
        return F.conv2d(image, conv.weight, conv.bias, dilation=dilation, groups=len(conv.bias))

    found: dict[str, float | str] = {}
    ways: dict[str, Callable[[], Tensor]] = {"own": lambda: Decoder._conv(conv, rows), "cudnn": cudnn}
    for name, run in ways.items():
        times_ms = []
        try:
            for _ in range(20):
                started_s = time.perf_counter()
                run()
                torch.cuda.synchronize(device)
                times_ms.append((time.perf_counter() - started_s) * 1000)
        except RuntimeError as error:
            found[name] = str(error).split("\n", 1)[0]
        else:
            found[name] = round(statistics.median(times_ms[5:]), 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="which card")
    parser.add_argument(
        "--cpu", action="store_true", help="no GPU, a tiny size: checks the code, measures nothing"
    )
    parser.add_argument("--quick", action="store_true", help="half a second for each batch")
    options = parser.parse_args()
    cuda = not options.cpu
    if cuda and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here: run this on a machine with a card, or with --cpu.")
    device = options.device if cuda else "cpu"
    batches, budget_s = (BATCHES, 0.5 if options.quick else BUDGET_S) if cuda else (BATCHES[:4], 0.02)
    card = torch.cuda.get_device_name(device) if cuda else "CPU, tiny size: not a measurement"
    print(
        f"{card}\n  SNAC with random weights: capture {2 * len(batches)} graphs, compare streams with the CPU's, then "
        f"time steps of one frame of {batches[0]} to {batches[-1]} streams.",
        flush=True,
    )

    def reserved_mb() -> float:
        return round(torch.cuda.memory_reserved(device) / 1e6, 1) if cuda else 0.0

    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_random(Path(temporary), FULL if cuda else TINY)
        reference, eager = Decoder.load(folder), Decoder.load(folder, device=device)
    eager.warm_up()
    memory_mb = {"eager": reserved_mb()}
    graphs = GraphedDecoder(
        eager.config,
        eager.network,
        noise=True,
        device=eager.device,
        batches=batches,
        capture=None if cuda else replay_by_call,
    )
    graphs.warm_up()  # compares every graph with the step it was captured from
    memory_mb["with graphs"] = reserved_mb()
    print(f"  captured in {time.perf_counter() - started_s:.1f} s; memory {memory_mb} MB", flush=True)
    equal = equality(graphs, reference)
    print(
        f"  against the CPU: {equal['snr_db']} dB SNR, largest difference {equal['largest_difference']}",
        flush=True,
    )

    decoders = {"eager": eager, "graphs": graphs}
    print("  streams   ms a step: eager, graphs   frames a second: eager, graphs   streams at real time")
    steps: dict[int, dict[str, float]] = {}
    frames_per_s: dict[int, dict[str, float]] = {}
    for batch in batches:
        steps[batch] = step_ms(decoders, batch, budget_s)
        frames_per_s[batch] = {name: round(batch * 1000 / ms, 1) for name, ms in steps[batch].items()}
        row = [
            *steps[batch].values(),
            *frames_per_s[batch].values(),
            int(frames_per_s[batch]["graphs"] * FRAME_S),
        ]
        print(
            f"  {batch:7d}   {row[0]:10.3f} {row[1]:13.3f}   {row[2]:16.1f} {row[3]:13.1f}   {row[4]:20d}",
            flush=True,
        )
    convolution = {streams: convolution_ms(eager, streams) for streams in (1, 64)} if cuda else {}
    if cuda:
        print(f"  a depthwise convolution, ms by streams: {convolution}")
    result = {
        "device": card,
        **equal,
        "ms_per_step": steps,
        "frames_per_s": frames_per_s,
        "streams_realtime": {batch: int(each["graphs"] * FRAME_S) for batch, each in frames_per_s.items()},
        "memory_mb": memory_mb,
        "state_bytes_per_stream": eager.floats * 4,
        "convolution_ms": convolution,
        "seconds": round(time.perf_counter() - started_s, 1),
    }
    print(json.dumps(result))
    return 0 if equal["snr_db"] >= LEAST_SNR_DB else 1


if __name__ == "__main__":
    raise SystemExit(main())
