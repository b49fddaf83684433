"""The figures of benchmarks.codec as benchmarks/results/codec_*.png, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import RESULTS
from orpheus.codec.decoder import Decoder
from orpheus.codec.offline import OfflineDecoder
from orpheus.ops.bench.codec import streamed
from orpheus.ops.bench.show import save_picture
from orpheus.vocabulary import SLOTS

OURS, RIVAL = "#1f6f8b", "#b9b9b9"
LABELS = {
    "offline": "offline, 10 s at once",
    "offline_package": "offline, weight norm not folded",
    "offline_1_4_s": "offline, 1.4 s at once",
    "one_frame": "ours, one frame a step",
    "two_frames": "ours, two frames",
    "four_frames": "ours, four frames",
    "batch8": "ours, 8 streams, one frame",
    "window28": "sliding 28-token window",
    "context3": "3-frame context, 8 frames",
}
FRAME = 2048  # samples
Sizes = dict[str, dict[str, float]]  # full, embedded


def draw(over_cheapest: Sizes, capacity: Sizes, codes: NDArray[np.int64], codec: Path) -> None:
    save_picture(RESULTS / "codec_cost.png", lambda pyplot: _costs(pyplot, over_cheapest))
    save_picture(RESULTS / "codec_streams.png", lambda pyplot: _capacity(pyplot, capacity))
    save_picture(RESULTS / "codec_seam.png", lambda pyplot: _seam(pyplot, codes, codec))


def _costs(pyplot: Any, over_cheapest: Sizes) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, (size, ways) in zip(axes, over_cheapest.items(), strict=True):
        labels = [LABELS[way] for way in ways][::-1]
        colours = [OURS if label.startswith("ours") else RIVAL for label in labels]
        bars = axis.barh(labels, list(ways.values())[::-1], color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=f"{size} size", xlim=(0, max(ways.values()) * 1.15))
        axis.set_xlabel("CPU time for the same audio ÷ the cheapest offline decode")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _capacity(pyplot: Any, capacity: Sizes) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, (size, streams) in zip(axes, capacity.items(), strict=True):
        counts = [name.split()[0] for name in streams if name.endswith(" batched")]
        places = np.arange(len(counts))
        for shift, kind, colour in ((-0.2, "unbatched", RIVAL), (0.2, "batched", OURS)):
            heights = [streams[f"{count} {kind}"] for count in counts]
            bars = axis.bar(places + shift, heights, 0.38, color=colour, label=kind)
            axis.bar_label(bars, fmt="%.1f", padding=2)
        axis.set_xticks(places, counts)
        axis.set(xlabel="open streams", ylabel="streams at real time, one core")
        axis.set_title(f"{size} size, one frame a step")
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="upper left")
    return figure


def _seam(pyplot: Any, codes: NDArray[np.int64], codec: Path) -> Any:
    """Difference from the offline decode, and its spectrogram, over the same frames of the same codes, noise off."""
    decoder, offline = Decoder.load(codec, noise=False), OfflineDecoder.load(codec, noise=False)
    exact, frames = offline.decode(codes), codes.reshape(-1, SLOTS)
    ours = streamed(decoder, codes, range(SLOTS, len(codes), SLOTS), seed=0, lookahead=4)
    # What the usual decoders play: of each window of four frames the second, noise drawn anew for each. Silence where
    # they play nothing: the first frame and the last two.
    window = np.zeros_like(exact)
    for end in range(4, len(frames) + 1):
        played = offline.decode(frames[end - 4 : end], seed=end)[FRAME : 2 * FRAME]
        window[(end - 3) * FRAME : (end - 2) * FRAME] = played
    figure, axes = pyplot.subplots(3, 2, figsize=(12, 8), sharex=True, layout="constrained")
    dither = np.random.default_rng(0).standard_normal(len(exact))  # silence has no logarithm
    rate = decoder.shape.sample_rate
    scale: Any = {"NFFT": 512, "Fs": rate, "noverlap": 384, "vmin": -140, "vmax": -40, "cmap": "magma"}
    for column, (title, pcm) in enumerate((("sliding 28-token window", window), ("ours", ours))):
        error = pcm - exact
        for row, signal in enumerate((pcm, error)):
            *_, image = axes[row, column].specgram(signal + 1e-9 * dither, **scale)
            axes[row, column].set_ylabel("Hz")
        axes[0, column].set_title(f"{title}: what is heard")
        axes[1, column].set_title("difference from the offline decode (same scale)")
        axes[2, column].semilogy(
            np.arange(len(exact)) / rate, np.abs(error) + 1e-9, linewidth=0.4, color=OURS
        )
        axes[2, column].set(ylim=(1e-9, 1), ylabel="|difference|", xlabel="seconds")
    figure.colorbar(image, ax=axes[:2, 1], label="dB")
    return figure
