"""Streaming beside the offline decode: the largest error, the SNR of an early first frame, the seam after it, a picture.

Fidelity is measured on speech of the embedded voice: random codes would give other figures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus import embedded
from orpheus.codec.decoder import Decoder
from orpheus.codec.offline import OfflineDecoder
from orpheus.codec.stream import StreamState, decode_all
from orpheus.ops.bench.codec import streamed
from orpheus.tts.frames import FrameAssembler
from orpheus.vocabulary import SLOTS, TokenTextParser, token_text

Codes = NDArray[np.int64]
FRAME = 2048  # samples


def spoken_codes(text: str) -> Codes:
    """Codes of the embedded voice saying `text`."""
    import llama_cpp

    llama = llama_cpp.Llama(str(embedded.MODEL), n_ctx=1024, n_threads=1, seed=5, verbose=False)
    turn = f"{token_text(3)}<|begin_of_text|>tara: {text}<|eot_id|>" + "".join(map(token_text, (4, 5, 1)))
    ids = llama.tokenize(turn.encode(), add_bos=False, special=True)
    answer = llama.create_completion(ids, max_tokens=700, temperature=0.4, stop=[token_text(2)])
    text = answer["choices"][0]["text"]  # type: ignore[index]
    return np.array(FrameAssembler().assemble(TokenTextParser().parse(text)), np.int64)


def worst_error(folder: Path, frames: int) -> float:
    """The largest difference from the package's decode over random splits, keyed noise on both sides."""
    decoder, offline = Decoder.load(folder), OfflineDecoder.load(folder)
    dice = np.random.default_rng(1)
    worst = 0.0
    for seed in range(3):
        codes = dice.integers(0, decoder.config.codes, frames * SLOTS)
        pcm = streamed(decoder, codes, np.sort(dice.integers(0, len(codes), 6)).tolist(), seed=seed)
        worst = max(worst, float(np.abs(pcm - offline.decode(codes, seed=seed)).max()))
    return worst


def bytes_equal(folder: Path) -> bool:
    """Whether a stream's samples are the same to the last bit in steps of ½, 1, 2, 3, 4 and 8 frames, alone and among eight."""
    decoder = Decoder.load(folder)
    codes = np.random.default_rng(2).integers(0, decoder.config.codes, 24 * SLOTS)
    seen = set()
    for step, streams in ((1, 1), (2, 1), (3, 1), (4, 1), (8, 1), (0.5, 1), (1, 2), (1, 8), (4, 3)):
        cuts = [round(SLOTS * step * i) for i in range(1, int(24 / step))]
        seen.add(streamed(decoder, codes, cuts, seed=7, streams=streams).tobytes())
    return len(seen) == 1


def fidelity(codes: Codes) -> tuple[dict[int, float], dict[str, float]]:
    """SNR in dB of a frame that leaves with 0 … 10 latents known after it (median over frames), and the seam.

    The seam is where an approximated first frame meets the exact second one, for starts anywhere in the speech.
    """
    decoder, offline = Decoder.load(embedded.CODEC), OfflineDecoder.load(embedded.CODEC)
    exact, hop = offline.decode(codes), decoder.hop
    snr = {}
    for lookahead in range(11):
        values = []
        for frame in range(4, len(codes) // SLOTS - 3):
            known = 4 * frame + 4 + lookahead
            state = StreamState(decoder, 0, decoder.tail)
            state.add_codes(codes[: SLOTS * -(-known // 4)])
            state.end = known
            state._latents = np.pad(state._latents[:known], ((0, decoder.tail), (0, 0)))
            (pcm,) = decode_all(decoder, [state])
            place = slice(4 * frame * hop, 4 * (frame + 1) * hop)
            error = np.square(pcm[place] - exact[place]).sum()
            values.append(10 * math.log10(np.square(exact[place]).sum() / error))
        snr[lookahead] = round(float(np.median(values)), 1)
    jumps, steps = [], []
    for first in range(2, len(codes) // SLOTS - 6):
        part = codes[first * SLOTS :]
        state = StreamState(decoder, 0, 4)
        state.add_codes(part[: 2 * SLOTS])
        (early,) = decode_all(decoder, [state])
        true = offline.decode(part[: 8 * SLOTS])
        jumps.append(abs(float(early[-1] - true[len(early) - 1])))
        steps.append(float(np.abs(np.diff(true[: 2 * len(early)])).max()))
    return snr, {"worst_jump": max(jumps), "median_largest_step_of_speech": float(np.median(steps))}


def draw(pyplot: Any, codes: Codes, codec: Path) -> Any:
    """Spectrograms, and the difference from the offline decode, of the same codes with noise off."""
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
    rate = decoder.config.sample_rate
    scale: Any = {"NFFT": 512, "Fs": rate, "noverlap": 384, "vmin": -140, "vmax": -40, "cmap": "magma"}
    for column, (title, pcm) in enumerate((("sliding 28-token window", window), ("ours", ours))):
        error = pcm - exact
        for row, signal in enumerate((pcm, error)):
            *_, image = axes[row, column].specgram(signal + 1e-9 * dither, **scale)
            axes[row, column].set_ylabel("Hz")
        axes[0, column].set_title(f"{title}: what is heard")
        axes[1, column].set_title("difference from the offline decode (same scale)")
        axes[2, column].semilogy(np.arange(len(exact)) / rate, np.abs(error) + 1e-9, linewidth=0.4)
        axes[2, column].set(ylim=(1e-9, 1), ylabel="|difference|", xlabel="seconds")
    figure.colorbar(image, ax=axes[:2, 1], label="dB")
    return figure
