"""What the encoders' settings cost, and whether they can be heard.

    python -m benchmarks.encoders

Speech of the embedded voice through each format, as we set it and as FFmpeg would, decoded again by FFmpeg. `us_per_frame`
is processor time for 85 ms of speech. `noise_to_mask_db` is how far the noise that the encoder adds lies below what the
speech itself masks (Bark bands, spreading and offsets as in PEAQ, ITU-R BS.1387: below 0 it is not heard; the mean over all
bands and frames). `mel_db` is the mean difference of 64 mel bands, whatever the phase. One JSON object on the last line.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from datetime import date
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.codec_fidelity import spoken_codes
from orpheus import embedded
from orpheus.codec.decoder import Decoder
from orpheus.ops.bench.codec import streamed
from orpheus.ops.bench.listening import SENTENCE
from orpheus.pcm import Pcm
from orpheus.tts import encode

RATE = 24_000
FRAME = 2048  # samples
WINDOW, HOP = 1024, 512
FULL_SCALE_SPL_DB = 92.0  # as PEAQ assumes
# Ours is None; the others are what to give the encoder instead.
SETTINGS: dict[encode.Format, list[dict[str, str] | None]] = {
    "mp3": [None, {}, {"compression_level": "5"}, {"compression_level": "7"}],
    "opus": [None, {}, {"compression_level": "5"}, {"compression_level": "4"}, {"application": "voip"}],
    "aac": [None, {}, {"aac_coder": "fast"}],
}


def encoded(pcm: Pcm, format: encode.Format, options: dict[str, str] | None) -> tuple[bytes, float]:
    """The stream, and its processor time in µs a frame: the least of three."""
    ours = encode.ENCODER_OPTIONS.get(format, {})
    best, data = float("inf"), b""
    try:
        if options is not None:
            encode.ENCODER_OPTIONS[format] = options
        for _ in range(3):
            encoder = encode.open_encoder(format, source_rate=RATE)
            began_s = time.thread_time()
            parts = [encoder.write(pcm[start : start + FRAME]) for start in range(0, len(pcm), FRAME)]
            data = b"".join([*parts, encoder.flush()])
            best = min(best, time.thread_time() - began_s)
    finally:
        encode.ENCODER_OPTIONS[format] = ours
    return data, best / (len(pcm) / FRAME) * 1e6


def decoded(data: bytes) -> Pcm:
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(io.BytesIO(data), "r") as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.float32)


def aligned(pcm: Pcm, heard: Pcm) -> tuple[Pcm, Pcm]:
    """Both without the encoder's delay, to an eighth of a sample, and as long as the shorter."""
    size = 1 << (len(pcm) + len(heard)).bit_length()
    product = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(pcm, size))
    fine = np.fft.irfft(product, size * 8)[: size * 4]
    delay = int(np.argmax(fine)) / 8
    turn = np.exp(2j * np.pi * np.fft.rfftfreq(size) * delay)
    moved = np.fft.irfft(np.fft.rfft(heard, size) * turn, size)[: len(pcm)].astype(np.float32)
    return pcm[: len(moved)], moved


def spectrum(pcm: Pcm) -> NDArray[np.float64]:
    """Power (frames, bins), of which a sine of full scale has 1."""
    windows = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float64), WINDOW)[::HOP]
    shape = np.hanning(WINDOW)
    power: NDArray[np.float64] = np.abs(np.fft.rfft(windows * shape)) ** 2 / (shape.sum() / 2) ** 2
    return power


def noise_to_mask_db(pcm: Pcm, heard: Pcm) -> float:
    """How far the difference lies below (negative) what the speech masks."""
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    bark = 7 * np.arcsinh(hertz / 650)
    bands = np.arange(0, bark[-1] - 0.5, 0.5)
    member = (bark[None] >= bands[:, None]) & (bark[None] < bands[:, None] + 0.5)
    speech, noise = spectrum(pcm) @ member.T, spectrum(heard - pcm) @ member.T
    away = bands[:, None] - bands[None]  # of a band from what masks it, in Bark
    spreading = 10 ** (-np.where(away < 0, -27 * away, 15 * away) / 10)
    offset_db = np.where(bands <= 12, 3.0, 0.25 * bands)
    middle = 650 * np.sinh((bands + 0.25) / 7) / 1000  # kHz
    quiet_db = 3.64 * middle**-0.8 - 6.5 * np.exp(-0.6 * (middle - 3.3) ** 2) + 1e-3 * middle**4
    mask = (speech @ spreading.T) * 10 ** (-offset_db / 10) + 10 ** ((quiet_db - FULL_SCALE_SPL_DB) / 10)
    return float(10 * np.log10(np.mean(noise / mask)))


def mel_db(pcm: Pcm, heard: Pcm) -> float:
    """Mean difference of the two in mel bands, in dB; what is 60 dB below the loudest does not count."""
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    mel = 2595 * np.log10(1 + hertz / 700)
    edges = np.linspace(0, mel[-1], 66)
    weights = np.maximum(0, 1 - np.abs(mel[None] - edges[1:-1, None]) / (edges[1] - edges[0]))
    one, other = spectrum(pcm) @ weights.T, spectrum(heard) @ weights.T
    floor = one.max() * 1e-6
    levels = 10 * np.log10(np.maximum(one, floor)), 10 * np.log10(np.maximum(other, floor))
    return float(np.mean(np.abs(levels[0] - levels[1])))


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    speech = streamed(Decoder.load(embedded.CODEC), spoken_codes(SENTENCE), [], seed=0)
    speech = np.concatenate([speech] * 3)
    rows: list[dict[str, Any]] = []
    for format, settings in SETTINGS.items():
        for options in settings:
            data, us_per_frame = encoded(speech, format, options)
            one, other = aligned(speech, decoded(data))
            rows.append(
                {
                    "format": format,
                    "options": encode.ENCODER_OPTIONS.get(format, {}) if options is None else options,
                    "ours": options is None,
                    "us_per_frame": round(us_per_frame),
                    "kbit_s": round(len(data) * 8 / len(speech) * RATE / 1000, 1),
                    "noise_to_mask_db": round(noise_to_mask_db(one, other), 1),
                    "mel_db": round(mel_db(one, other), 2),
                }
            )
            print(rows[-1], flush=True)
    ours = {row["format"]: row for row in rows if row["ours"]}
    print(json.dumps({"rows": list(ours.values()), "date": date.today().isoformat()}))


if __name__ == "__main__":
    main()
