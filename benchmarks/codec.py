"""Cost, exactness and capacity of streaming SNAC beside its rivals: tables, pictures and one JSON line.

    python -m benchmarks.codec [--quick] [--threads N]

Every rival runs in turn in the same process, for several rounds, and the least time of each counts. With one thread
(the default) time is CPU time, which other work on the machine does not lengthen; with more it is wall time.
The full size is SNAC-24k's architecture with random weights: the cost does not depend on them. "offline" is the snac
package's own decode of ten seconds at once with weight norm folded; `offline_package` as the package loads it;
`offline_1_4_s` is short enough for the caches, the cheapest that an offline decode gets. Ratios are given over the
first (`…_over_offline`) and over the cheapest (`over_cheapest_offline`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from snac import SNAC

from benchmarks.codec_fidelity import EMBEDDED, bytes_equal, fidelity, spoken_codes, worst_error
from orpheus.codec.decoder import Decoder
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import StreamState, decode_all
from orpheus.ops.bench.codec_cost import Costs, step_run
from orpheus.vocabulary import FRAME_S, SLOTS

FULL = {  # config.json of hubertsiuzdak/snac_24khz
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
CONCURRENT = (1, 4, 16, 64)


def save_full_size(folder: Path) -> Path:
    torch.manual_seed(0)
    (folder / "config.json").write_text(json.dumps(FULL))
    torch.save(SNAC(**FULL).state_dict(), folder / "pytorch_model.bin")
    return folder


def cost_runs(folder: Path, seconds: float) -> dict[str, tuple[Callable[[], object], float]]:
    """Every way to decode, each with about the same length of audio per round."""
    offline, decoder = OfflineDecoder.load(folder), Decoder.load(folder)
    package = OfflineDecoder(SNAC.from_pretrained(str(folder)), folded=False)
    frames = round(seconds / FRAME_S)
    codes = np.random.default_rng(0).integers(0, decoder.config.codes, (frames, SLOTS))
    few = max(2, frames // 8)  # the expensive ones get less work
    return {
        "offline": (lambda: offline.decode(codes), frames * FRAME_S),
        "offline_package": (lambda: package.decode(codes), frames * FRAME_S),
        "offline_1_4_s": (lambda: offline.decode(codes[:16]), 16 * FRAME_S),
        "one_frame": step_run(decoder, 1, 4, frames // 2),
        "two_frames": step_run(decoder, 1, 8, frames // 4),
        "four_frames": step_run(decoder, 1, 16, frames // 8),
        "batch8": step_run(decoder, 8, 4, max(1, frames // 16)),
        "window28": (lambda: [offline.decode(codes[:4]) for _ in range(few)], few * FRAME_S),
        "context3": (
            lambda: [offline.decode(codes[:14]) for _ in range(max(1, few // 8))],
            max(1, few // 8) * 8 * FRAME_S,
        ),
    }


def stream_runs(folder: Path, rounds: int) -> dict[str, tuple[Callable[[], object], float]]:
    """Rounds of one frame for each of n streams, through the code that serves them: together and one by one."""
    decoder = Decoder.load(folder)
    runs: dict[str, tuple[Callable[[], object], float]] = {}
    for streams in CONCURRENT:
        states = [StreamState(decoder, seed, 4) for seed in range(streams)]
        frame = np.random.default_rng(0).integers(0, decoder.config.codes, SLOTS)
        turns = max(1, rounds * 16 // streams)

        def run(
            states: list[StreamState] = states,
            turns: int = turns,
            frame: NDArray[np.int64] = frame,
            together: bool = True,
        ) -> None:
            for _ in range(turns):
                for state in states:
                    state.push(frame)
                for group in [states] if together else [[state] for state in states]:
                    decode_all(decoder, group)

        runs[f"{streams} batched"] = (run, turns * streams * FRAME_S)
        runs[f"{streams} unbatched"] = (lambda run=run: run(together=False), turns * streams * FRAME_S)
    return runs


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds, shorter audio")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    rounds, seconds = (2, 10.0) if options.quick else (6, 10.0)
    costs = Costs(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        full = save_full_size(Path(temporary))
        cost = {
            "full": costs.measure(cost_runs(full, seconds), rounds),
            "embedded": costs.measure(cost_runs(EMBEDDED / "snac", seconds), rounds),
        }
        streams = {
            "full": costs.measure(stream_runs(full, 2 if options.quick else 4), min(rounds, 3)),
            "embedded": costs.measure(stream_runs(EMBEDDED / "snac", 4), rounds),
        }
        equal = bytes_equal(full) and bytes_equal(EMBEDDED / "snac")
        error = max(worst_error(full, 20), worst_error(EMBEDDED / "snac", 40))
    codes = spoken_codes("The boat drifted slowly down the river.")
    snr, seam = fidelity(codes)
    for size, values in cost.items():
        print(f"\n{size} size: seconds of CPU for a second of audio, over offline ({options.threads} thread)")
        for name, value in values.items():
            print(f"  {name:16s} {value:7.4f} s  {value / values['offline']:5.2f}")
    capacity = {
        size: {name: round(1 / value, 1) for name, value in values.items()}
        for size, values in streams.items()
    }
    for size, values in capacity.items():
        print(f"\n{size} size: streams at real time with n open\n  {values}")
    print(f"\nSNR by lookahead, embedded voice's own codes: {snr}\nseam of the early frame: {seam}")
    from benchmarks import codec_pictures  # needs matplotlib, which nothing else here does

    codec_pictures.draw(cost, capacity, codes, EMBEDDED / "snac")
    over = {name: round(value / cost["full"]["offline"], 3) for name, value in cost["full"].items()}
    result = {f"{name}_over_offline": value for name, value in over.items() if name != "offline"}
    cheapest = {
        size: min(value for name, value in values.items() if name.startswith("offline"))
        for size, values in cost.items()
    }
    result |= {
        "over_cheapest_offline": {
            size: {name: round(value / cheapest[size], 3) for name, value in values.items()}
            for size, values in cost.items()
        },
        "s_per_audio_s": {
            size: {name: round(value, 4) for name, value in values.items()} for size, values in cost.items()
        },
        "max_abs_error": error,
        "bytes_equal_however_split_and_batched": equal,
        "snr_db_by_lookahead": snr,
        "seam": seam,
        "streams_realtime_full": capacity["full"],
        "streams_realtime_embedded": capacity["embedded"],
        "threads": options.threads,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
