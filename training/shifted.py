"""speech/ and codes/ → shifted/NNNNN.flac and .json: the sentences as each speaker says them, the codec's training audio.

A sentence is spoken by one speaker of its rate, in turn, so any prefix of the set is balanced. Its melody is that of the
codes: they do not determine the high harmonics of the original melody, which the codec could only learn as noise. Tone
and breath are the two channels of a file.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track

from training import codes, melody, samples, shift, sing, speech
from training.clock import RATE_HZ, TEACHER_HZ
from training.files import write_atomically
from training.speakers import RATES, SPEAKERS


def speakers_of(rate: int) -> list[int]:
    """Numbers of the speakers who speak at RATES[rate]."""
    return [number for number, speaker in enumerate(SPEAKERS) if speaker.rate == rate]


def make(out: Path, shards: int) -> None:
    """Shift the first `shards` whole shards of speech that are not shifted yet; nothing of the test set."""
    spoken_shards = [
        one for one in speech.shards(out) if not all(line["test"] for line in speech.read_lines(one))
    ]
    *_, melodies = codes.load(out)
    coarse = {one.number: one.frames[:, 0] for one in samples.read(out / "codes")}
    if missing := [
        shard.name for shard in spoken_shards[:shards] if not (out / "codes" / f"{shard.name}.npz").exists()
    ]:
        raise SystemExit(f"{out}/codes lacks shard {missing[0]}: run `--stage codes` first.")
    for shard in track(spoken_shards[:shards], "shifted"):
        target = out / "shifted" / shard.name
        if target.with_suffix(".json").exists():
            continue
        turn = [0] * len(RATES)
        audio, spoken, start = [], [], 0
        for line, recorded in speech.read(shard):
            if line["test"]:
                continue
            analysis = shift.analyse(shift.prepare(recorded, TEACHER_HZ))
            choices = speakers_of(line["rate"])
            speaker = choices[turn[line["rate"]] % len(choices)]
            turn[line["rate"]] += 1
            streams = shift.move(analysis, SPEAKERS[speaker])
            hz = melody.pitch(coarse[line["id"]], melodies, SPEAKERS[speaker])
            said = np.stack(sing.sing(streams, hz), axis=1)
            said *= shift.gain(said.sum(axis=1))
            spoken.append(
                {
                    "id": line["id"],
                    "speaker": speaker,
                    "start": start,
                    "samples": len(said),
                }
            )
            # Tone and breath may each be louder than their sum.
            audio.append(np.round(said.clip(-1, 1) * 32767).astype(np.int16))
            start += len(said)
        buffer = io.BytesIO()
        soundfile.write(buffer, np.concatenate(audio), RATE_HZ, format="FLAC", subtype="PCM_16")
        write_atomically(target.with_suffix(".flac"), buffer.getvalue())
        write_atomically(target.with_suffix(".json"), json.dumps(spoken).encode())
