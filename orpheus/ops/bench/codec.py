"""The codec alone: seconds of processor time per second of audio, and streams to compare with the offline decode."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import OPEN_END
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import StreamState, decode_all
from orpheus.vocabulary import FRAME_S, SLOTS

OFFLINE_FRAMES = 58  # 5 s
Run = tuple[Callable[[], object], float]  # what to run, and the seconds of audio it makes


class CodecTimer:
    """Seconds per second of audio: of processor time on one thread, otherwise of wall time."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._clock = time.process_time if threads == 1 else time.perf_counter

    def least(self, runs: dict[str, Run], rounds: int) -> dict[str, float]:
        """The least time of each run; they take turns, so that a busy machine disturbs all alike."""
        least = dict.fromkeys(runs, math.inf)
        for turn in range(rounds + 1):
            for name, (run, audio_s) in runs.items():
                start = self._clock()
                run()
                if turn:  # the first round warms up
                    least[name] = min(least[name], (self._clock() - start) / audio_s)
        return least


def step_run(decoder: Decoder, streams: int, latents: int, steps: int) -> Run:
    """A run of `steps` steps, each of `latents` latents of every stream."""
    memory = decoder.new_memory(streams)
    codes = torch.randint(0, decoder.config.codes, (streams, latents, 3))

    def run() -> None:
        for step in range(steps):
            decoder.step(memory, codes, [64 + step * latents] * streams, [OPEN_END] * streams, [0] * streams)

    return run, steps * streams * latents * FRAME_S / 4


def codec_cost(folder: Path, rounds: int = 3) -> dict[str, float]:
    """Seconds of processor time for a second of audio, on one thread, by the way it is decoded."""
    before = torch.get_num_threads()
    timer = CodecTimer(threads=1)
    offline, decoder = OfflineDecoder.load(folder), Decoder.load(folder)
    codes = np.random.default_rng(0).integers(0, decoder.config.codes, (OFFLINE_FRAMES, SLOTS))
    try:
        return timer.least(
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


def streamed(
    decoder: Decoder,
    codes: NDArray[np.int64],
    cuts: Iterable[int],
    *,
    seed: int,
    lookahead: int | None = None,
    streams: int = 1,
) -> NDArray[np.float32]:
    """The samples of one of several equal streams, whose codes arrive in parts cut at `cuts`.

    Without a lookahead the first frame waits until it is exact, too.
    """
    states = [
        StreamState(decoder, seed, decoder.tail if lookahead is None else lookahead) for _ in range(streams)
    ]
    pcm = []
    for part in np.split(codes.reshape(-1), list(cuts)):
        for state in states:
            state.add_codes(part)
        pcm.append(decode_all(decoder, states)[-1])
    for state in states:
        state.finish()
    return np.concatenate([*pcm, decode_all(decoder, states)[-1]])
