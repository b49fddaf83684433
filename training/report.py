"""model.gguf and snac/ → report.json: word error by voice of the teacher, of the codec alone, of the whole path.

Knows nothing of training. The language model is run by llama.cpp as the service runs it: legal codes of the slot only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from rich.progress import track
from snac import SNAC

from orpheus.vocabulary import SLOTS
from training import codec, samples, shift, speech, turns
from training.clock import TEACHER_HZ
from training.files import write_atomically
from training.listen import hear, is_plain, word_error_rate
from training.samples import codes_a_slot, in_codebooks, said_by
from training.speakers import SPEAKERS

LONGEST_TOKENS = 1400


class Reader:
    """llama.cpp over one GGUF, one stream."""

    def __init__(self, model: Path, codes: int, threads: int = 1) -> None:
        self._codes = codes  # a slot
        self._llama = llama_cpp.Llama(
            str(model),
            n_ctx=2048,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
            logits_all=False,
        )

    def frames(
        self, text: str, voice: str, temperature: float, top_p: float, seed: int
    ) -> tuple[np.ndarray, bool]:
        """((n, 7) codes of the codebooks, whether it ended by itself)."""
        draw = np.random.default_rng(seed)
        llama = self._llama
        llama.reset()
        llama.eval(turns.prompt(text, voice))
        said: list[int] = []
        ended = False
        while len(said) < LONGEST_TOKENS:
            slot = len(said) % SLOTS
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), (llama.n_vocab(),))
            first = turns.FIRST_CODE_ID + slot * self._codes
            legal = logits[first : first + self._codes].astype(np.float64)
            if slot == 0:
                legal = np.append(legal, logits[turns.CONTROL_ID[2]])
            pick = sample(legal, temperature, top_p, draw)
            ended = pick == self._codes
            if ended:
                break
            said.append(pick)
            llama.eval([first + pick])
        return in_codebooks(np.array(said, int).reshape(-1, SLOTS), self._codes), ended


def sample(logits: np.ndarray, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """One index by temperature and top-p; the likeliest at temperature 0."""
    if temperature <= 0:
        return int(logits.argmax())
    share = np.exp((logits - logits.max()) / temperature)
    share /= share.sum()
    order = np.argsort(-share)
    kept = order[: int(np.searchsorted(np.cumsum(share[order]), top_p)) + 1]
    return int(draw.choice(kept, p=share[kept] / share[kept].sum()))


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
