"""A SNAC folder → seconds of processor time for a second of audio: offline, frame by frame, and many at once.

Every way is run in turn, several rounds, and the least time of each counts. Knows nothing of tables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import OPEN_END
from orpheus.codec.offline import OfflineDecoder
from orpheus.vocabulary import FRAME_S, SLOTS

OFFLINE_FRAMES = 58  # 5 s


class Costs:
    """Least seconds per audio second of each named run, rounds interleaved."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._clock = time.process_time if threads == 1 else time.perf_counter

    def measure(self, runs: dict[str, tuple[Callable[[], object], float]], rounds: int) -> dict[str, float]:
        """`runs`: name → (what to run, seconds of audio it makes)."""
        least = dict.fromkeys(runs, math.inf)
        for turn in range(rounds + 1):
            for name, (run, audio_s) in runs.items():
                start = self._clock()
                run()
                if turn:  # the first round warms up
                    least[name] = min(least[name], (self._clock() - start) / audio_s)
        return least


def step_run(decoder: Decoder, streams: int, latents: int, steps: int) -> tuple[Callable[[], object], float]:
    memory = decoder.new_memory(streams)
    codes = torch.randint(0, decoder.config.codes, (streams, latents, 3))

    def run() -> None:
        for step in range(steps):
            decoder.step(memory, codes, [64 + step * latents] * streams, [OPEN_END] * streams, [0] * streams)

    return run, steps * streams * latents * FRAME_S / 4


def codec_cost(folder: Path, rounds: int = 3) -> dict[str, float]:
    """Seconds of processor time for a second of audio, on one thread, by the way it is decoded."""
    before = torch.get_num_threads()
    costs = Costs(threads=1)
    offline, decoder = OfflineDecoder.load(folder), Decoder.load(folder)
    codes = np.random.default_rng(0).integers(0, decoder.config.codes, (OFFLINE_FRAMES, SLOTS))
    try:
        return costs.measure(
            {
                "offline": (lambda: offline.decode(codes), OFFLINE_FRAMES * FRAME_S),
                "one_frame": step_run(decoder, 1, 4, OFFLINE_FRAMES // 2),
                "four_frames": step_run(decoder, 1, 16, OFFLINE_FRAMES // 8),
                "one_frame_of_8_streams": step_run(decoder, 8, 4, OFFLINE_FRAMES // 8),
            },
            rounds,
        )
    finally:
        torch.set_num_threads(before)
