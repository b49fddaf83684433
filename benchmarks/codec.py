"""Cost, exactness and capacity of streaming SNAC beside its rivals.

    python -m benchmarks.codec [--quick] [--threads N]

A table, a picture in benchmarks/results/codec_seam.png, and one JSON object on the last line. All ways to decode take
turns in one process, and the least time of each counts: processor time on one thread (the default), which other work on
the machine does not lengthen, otherwise wall time. The full size is the architecture of SNAC-24k with random weights,
on which cost does not depend. "offline" is the snac package's own decode of ten seconds at once, weight norm folded;
`offline_package` is the package as it loads; `offline_1_4_s` is short enough for the caches, the cheapest an offline
decode gets. Ratios are over the first (`…_over_offline`) and over the cheapest (`over_cheapest_offline`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from snac import SNAC

from benchmarks import RESULTS
from benchmarks.codec_fidelity import bytes_equal, draw, fidelity, spoken_codes, worst_error
from orpheus import embedded
from orpheus.codec.decoder import Decoder
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import StreamState, decode_all
from orpheus.ops.bench.codec import CodecTimer, Run, step_run
from orpheus.ops.bench.listening import SENTENCE
from orpheus.ops.bench.show import save_picture
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
SECONDS = 10.0  # of audio


def save_random(folder: Path, config: dict[str, object]) -> Path:
    """A SNAC folder of random weights."""
    torch.manual_seed(0)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(SNAC(**config).state_dict(), folder / "pytorch_model.bin")
    return folder


def cost_runs(folder: Path) -> dict[str, Run]:
    """Every way to decode; each makes about the same length of audio a round, the expensive ones less."""
    offline, decoder = OfflineDecoder.load(folder), Decoder.load(folder)
    package = OfflineDecoder(SNAC.from_pretrained(str(folder)), folded=False)
    frames = round(SECONDS / FRAME_S)
    few = frames // 8
    codes = np.random.default_rng(0).integers(0, decoder.config.codes, (frames, SLOTS))
    return {
        "offline": (lambda: offline.decode(codes), frames * FRAME_S),
        "offline_package": (lambda: package.decode(codes), frames * FRAME_S),
        "offline_1_4_s": (lambda: offline.decode(codes[:16]), 16 * FRAME_S),
        "one_frame": step_run(decoder, 1, 4, frames // 2),
        "two_frames": step_run(decoder, 1, 8, frames // 4),
        "four_frames": step_run(decoder, 1, 16, frames // 8),
        "batch8": step_run(decoder, 8, 4, frames // 16),
        "window28": (lambda: [offline.decode(codes[:4]) for _ in range(few)], few * FRAME_S),
        "context3": (lambda: [offline.decode(codes[:14]) for _ in range(few // 8)], few // 8 * 8 * FRAME_S),
    }


def stream_runs(folder: Path, rounds: int) -> dict[str, Run]:
    """Rounds of one frame for each of n streams, through the code that serves them: together, and one by one."""
    decoder = Decoder.load(folder)
    frame = np.random.default_rng(0).integers(0, decoder.config.codes, SLOTS)
    runs: dict[str, Run] = {}

    def run(groups: list[list[StreamState]], turns: int) -> None:
        for _ in range(turns):
            for group in groups:
                for state in group:
                    state.add_codes(frame)
                decode_all(decoder, group)

    for streams in CONCURRENT:
        states = [StreamState(decoder, seed, 4) for seed in range(streams)]
        turns = max(1, rounds * 16 // streams)
        for name, groups in (("batched", [states]), ("unbatched", [[state] for state in states])):
            runs[f"{streams} {name}"] = (partial(run, groups, turns), turns * streams * FRAME_S)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rounds = 2 if options.quick else 6
    timer = CodecTimer(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"full": save_random(Path(temporary), FULL), "embedded": embedded.CODEC}
        cost = {size: timer.least(cost_runs(folder), rounds) for size, folder in folders.items()}
        few = {"full": 2 if options.quick else 4, "embedded": 4}
        capacity = {
            size: {
                name: round(1 / seconds, 1)
                for name, seconds in timer.least(stream_runs(folder, few[size]), min(rounds, 3)).items()
            }
            for size, folder in folders.items()
        }
        equal = all(bytes_equal(folder) for folder in folders.values())
        error = max(worst_error(folders["full"], 20), worst_error(embedded.CODEC, 40))
    codes = spoken_codes(SENTENCE)
    snr, seam = fidelity(codes)

    def over(size: str, name: str) -> dict[str, float]:
        return {way: round(seconds / cost[size][name], 3) for way, seconds in cost[size].items()}

    for size, ways in cost.items():
        print(f"\n{size} size: seconds of CPU for a second of audio, over offline ({options.threads} thread)")
        for way, seconds in ways.items():
            print(f"  {way:16s} {seconds:7.4f} s  {seconds / ways['offline']:5.2f}")
    for size, streams in capacity.items():
        print(f"\n{size} size: streams at real time with n open\n  {streams}")
    print(f"\nSNR by lookahead, embedded voice's own codes: {snr}\nseam of the early frame: {seam}")
    cheapest = {
        size: min((way for way in ways if way.startswith("offline")), key=ways.__getitem__)
        for size, ways in cost.items()
    }
    over_cheapest = {size: over(size, way) for size, way in cheapest.items()}
    save_picture(RESULTS / "codec_seam.png", lambda pyplot: draw(pyplot, codes, embedded.CODEC))
    result = {
        **{
            f"{way}_over_offline": value for way, value in over("full", "offline").items() if way != "offline"
        },
        "over_cheapest_offline": over_cheapest,
        "s_per_audio_s": {
            size: {way: round(seconds, 4) for way, seconds in ways.items()} for size, ways in cost.items()
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
