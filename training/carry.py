"""codes/, shifted/ → carry/: one folder under 64 MiB from which codec and language model can be trained elsewhere.

Audio is stored as Opus; every length is kept to the sample.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path

import numpy as np
import soundfile

from training import samples
from training.clock import RATE_HZ
from training.files import write_atomically


def pack(out: Path, shifted_shards: int) -> Path:
    """Write `out`/carry: codes/all.npz and coder.pt, and the first shards of shifted/ as Opus."""
    target = out / "carry"
    shutil.rmtree(target, ignore_errors=True)
    (target / "codes").mkdir(parents=True)
    samples.write(target / "codes" / "all.npz", samples.read(out / "codes"))
    shutil.copy(out / "codes" / "coder.pt", target / "codes")
    for file in sorted((out / "shifted").glob("*.json"))[:shifted_shards]:
        audio, _ = soundfile.read(file.with_suffix(".flac"), dtype="int16", always_2d=True)
        buffer = io.BytesIO()
        # On libsndfile's scale this is about 50 kb/s a channel: 24 dB, and nothing the ear would miss.
        with soundfile.SoundFile(
            buffer, "w", RATE_HZ, audio.shape[1], format="OGG", subtype="OPUS", compression_level=0.8
        ) as sound:
            for start in range(0, len(audio), RATE_HZ):
                sound.write(audio[start : start + RATE_HZ])
        write_atomically(target / "shifted" / f"{file.stem}.ogg", buffer.getvalue())
        shutil.copy(file, target / "shifted")
    return target


def unpack_audio(folder: Path) -> None:
    """Turn the Opus files of a carried folder back into the FLAC files the codec stage reads."""
    for file in sorted((folder / "shifted").glob("*.ogg")):
        if file.with_suffix(".flac").exists():
            continue
        audio, _ = soundfile.read(file, dtype="int16", always_2d=True)
        lines = json.loads(file.with_suffix(".json").read_text())
        length = lines[-1]["start"] + lines[-1]["samples"]
        audio = np.pad(audio, ((0, max(0, length - len(audio))), (0, 0)))[:length]
        soundfile.write(file.with_suffix(".flac"), audio, RATE_HZ, subtype="PCM_16")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.carry", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the recipe; writes its carry/")
    parser.add_argument(
        "--shifted-shards", type=int, default=12, help="shards of audio to take, about 5 minutes each"
    )
    parser.add_argument("--unpack", action="store_true", help="prepare --out, a carried folder, for learning")
    chosen = parser.parse_args()
    if chosen.unpack:
        return unpack_audio(chosen.out)
    target = pack(chosen.out, chosen.shifted_shards)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
