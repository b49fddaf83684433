"""Draws what benchmarks.codec measured: benchmarks/results/codec_*.png."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from orpheus.codec.decoder import Decoder
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import StreamState, decode_all
from orpheus.vocabulary import SLOTS

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
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
FRAME = 2048


def draw(
    cost: dict[str, dict[str, float]],
    capacity: dict[str, dict[str, float]],
    codes: NDArray[np.int64],
    folder: Path,
) -> None:
    RESULTS.mkdir(exist_ok=True)
    _costs(cost)
    _capacity(capacity)
    _seam(codes, folder)


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(RESULTS / name, dpi=110)
    plt.close(figure)


def _costs(cost: dict[str, dict[str, float]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, (size, values) in zip(axes, cost.items(), strict=True):
        names = list(values)[::-1]
        cheapest = min(value for name, value in values.items() if name.startswith("offline"))
        bars = [values[name] / cheapest for name in names]
        colours = [OURS if LABELS[name].startswith("ours") else RIVAL for name in names]
        axis.bar_label(
            axis.barh([LABELS[name] for name in names], bars, color=colours), fmt="%.2f", padding=3
        )
        axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(f"{size} size")
        axis.set_xlabel("CPU time for the same audio ÷ the cheapest offline decode")
        axis.set_xlim(0, max(bars) * 1.15)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, "codec_cost.png")


def _capacity(capacity: dict[str, dict[str, float]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, (size, values) in zip(axes, capacity.items(), strict=True):
        counts = [name.split()[0] for name in values if name.endswith(" batched")]
        positions = np.arange(len(counts))
        for shift, kind, colour in ((-0.2, "unbatched", RIVAL), (0.2, "batched", OURS)):
            bars = axis.bar(
                positions + shift,
                [values[f"{count} {kind}"] for count in counts],
                0.38,
                color=colour,
                label=kind,
            )
            axis.bar_label(bars, fmt="%.1f", padding=2)
        axis.set_xticks(positions, counts)
        axis.set_xlabel("open streams")
        axis.set_ylabel("streams at real time, one core")
        axis.set_title(f"{size} size, one frame a step")
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="upper left")
    _save(figure, "codec_streams.png")


def sliding_window(offline: OfflineDecoder, codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """What common decoders play: of each window of four frames the second, with fresh noise for each window."""
    frames = codes.reshape(-1, SLOTS)
    return np.concatenate(
        [
            offline.decode(frames[end - 4 : end], seed=end)[FRAME : 2 * FRAME]
            for end in range(4, len(frames) + 1)
        ]
    )


def _seam(codes: NDArray[np.int64], folder: Path) -> None:
    """Difference from the offline decode, and its spectrogram, over the same frames of the same codes, noise off."""
    decoder, offline = Decoder.load(folder, noise=False), OfflineDecoder.load(folder, noise=False)
    exact = offline.decode(codes)
    state = StreamState(decoder, 0, 4)
    samples = []
    for frame in codes.reshape(-1, SLOTS):
        state.push(frame)
        samples += decode_all(decoder, [state])
    state.finish()
    ours = np.concatenate([*samples, *decode_all(decoder, [state])])
    window = np.zeros_like(exact)  # silence where it plays nothing: the first frame and the last two
    played = sliding_window(offline, codes)
    window[FRAME : FRAME + len(played)] = played
    figure, axes = plt.subplots(3, 2, figsize=(12, 8), sharex=True, layout="constrained")
    dither = np.random.default_rng(0).standard_normal(len(exact))  # silence has no logarithm
    seconds = np.arange(len(exact)) / decoder.config.sample_rate
    for column, (title, pcm) in enumerate((("sliding 28-token window", window), ("ours", ours))):
        error = pcm - exact
        for row, signal in ((0, pcm), (1, error)):
            _, _, _, image = axes[row, column].specgram(
                signal + 1e-9 * dither, NFFT=512, Fs=24000, noverlap=384, vmin=-140, vmax=-40, cmap="magma"
            )
            axes[row, column].set_ylabel("Hz")
        axes[0, column].set_title(f"{title}: what is heard")
        axes[1, column].set_title("difference from the offline decode (same scale)")
        axes[2, column].semilogy(seconds, np.abs(error) + 1e-9, linewidth=0.4, color=OURS)
        axes[2, column].set_ylim(1e-9, 1)
        axes[2, column].set_ylabel("|difference|")
        axes[2, column].set_xlabel("seconds")
    figure.colorbar(image, ax=axes[:2, 1], label="dB")
    _save(figure, "codec_seam.png")
