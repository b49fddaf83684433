"""model.gguf and snac/ → report.json: word error rates by voice of the teacher, the codec alone, and the whole path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from snac import SNAC

from training import codec, samples, shift, speech
from training.clock import TEACHER_HZ
from training.files import write_atomically
from training.listen import hear, is_plain, word_error_rate
from training.reader import Reader
from training.samples import codes_a_slot, said_by
from training.speakers import SPEAKERS


def make(out: Path, sentences: int = 12, temperature: float = 0.5, top_p: float = 0.9) -> dict[str, Any]:
    """Write and return the word error rates over `sentences` held-out sentences a voice."""
    held_out = [one for one in samples.read(out / "codes") if one.test and is_plain(one.text)]
    snac = SNAC.from_pretrained(str(out / "snac"))
    codes = codes_a_slot(snac.codebook_size)
    reader = Reader(out / "model.gguf", codes) if (out / "model.gguf").exists() else None
    recorded = {
        line["id"]: audio
        for shard in speech.shards(out)[: 1 + max((one.number for one in held_out), default=0) // 100]
        for line, audio in speech.read(shard)
    }
    result: dict[str, Any] = {"sentences": sentences, "temperature": temperature, "voices": {}}
    for number, speaker in enumerate(track(SPEAKERS, "listening")):
        chosen = [one for one in held_out if one.rate == speaker.rate][:sentences]
        texts, ended = [one.text for one in chosen], 0
        heard: dict[str, list[str]] = {"teacher": [], "codec": [], "voice": []}
        for one in chosen:
            analysis = shift.analyse(shift.prepare(recorded[one.number], TEACHER_HZ))
            heard["teacher"].append(hear(shift.speak(analysis, speaker)))
            frames = said_by(number, one.frames, codes)
            heard["codec"].append(hear(codec.decode(snac, frames)))
            if reader:
                frames, by_itself = reader.frames(one.text, speaker.name, temperature, top_p, one.number)
                ended += by_itself
                heard["voice"].append(hear(codec.decode(snac, frames)) if len(frames) else "")
        if chosen:
            rates = {what: word_error_rate(texts, said) for what, said in heard.items() if said}
            result["voices"][speaker.name] = rates | ({"ended": ended / len(chosen)} if reader else {})
    for what in ("teacher", "codec", "voice", "ended"):
        found = [voice[what] for voice in result["voices"].values() if what in voice]
        result[what] = float(np.mean(found)) if found else None
    write_atomically(out / "report.json", json.dumps(result, indent=1).encode())
    return result
