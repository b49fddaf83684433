"""Rows with audio → a page of spectrograms, the teacher over ours. Measures nothing itself."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from training.clock import RATE_HZ
from training.judges import Row

mpl.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 4


def draw(rows: list[Row], picture: Path) -> None:
    """One row per voice; all say the same sentence."""
    blocks = -(-len(rows) // COLUMNS)
    figure, axes = plt.subplots(
        2 * blocks, COLUMNS, figsize=(15, 4.4 * blocks), sharey=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for number, row in enumerate(rows):
        block, column = divmod(number, COLUMNS)
        for below, (kind, name) in enumerate((("teacher", "teacher"), ("voice", "ours"))):
            axis = axes[2 * block + below, column]
            axis.set_axis_on()
            axis.set_title(f"{row.voice}: {name}", fontsize=10)
            if kind in row.audio:
                samples = row.audio[kind]
                dither = 1e-6 * np.random.default_rng(0).standard_normal(
                    len(samples)
                )  # silence has no logarithm
                axis.specgram(
                    samples + dither, NFFT=512, Fs=RATE_HZ, noverlap=384, vmin=-130, vmax=-40, cmap="magma"
                )
            axis.set_ylim(0, 8000)
    figure.suptitle(f"“{rows[0].text}” (Hz over seconds)")
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=80, pil_kwargs={"quality": 80})
    plt.close(figure)
