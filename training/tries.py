"""texts.jsonl, a language model and a codec → tries/ROUND/NNNNN.npz: sentences that the model speaks several times.

Each try records how well two recognizers understood its words and, if features/ has the teacher's rendition, how far it
is from that. llama.cpp runs the model as the service does; it and the recognizers use one core, so shards are made in
parallel, and only those that are missing.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import torch
from rich.progress import track
from snac import SNAC

from orpheus.codec.offline import OfflineDecoder
from orpheus.vocabulary import SLOTS
from training import gguf_file, listen, texts, whisper
from training.clock import FRAME_SAMPLES, RATE_HZ
from training.files import save_arrays
from training.listen import is_plain, knows, understood, when_said, words
from training.llama import Llama
from training.reader import TEMPERATURE, TOP_P, opened
from training.samples import codes_a_slot, without_speaker
from training.speakers import SPEAKERS

SENTENCES_PER_SHARD = 12
CHARACTERS = range(18, 63)  # of a sentence: two to five seconds, in which a slip can be placed
FRAMES_A_LETTER = 1.5  # twice as long as anyone takes: what goes on longer is cut, and counts as not ended


@dataclass(frozen=True)
class Try:
    """One way of saying a sentence: frames (n, 7) with the speaker in them, codes from 0 in every slot.

    Of each of the text's w words: `right` (w,) whether pocketsphinx understood it, `sure` (w,) Whisper's log
    probability of it, and `spans` (w, 2) its first frame and the frame after its last, all 0 where the words could not
    be placed. `wrong` is pocketsphinx's word error rate, which knows of words too many as well. `away` (n,) is the distance of each
    frame from what the teacher said, not a number throughout where that is unknown.
    """

    text: str
    voice: str
    frames: np.ndarray
    ended: bool
    wrong: float
    right: np.ndarray
    sure: np.ndarray
    spans: np.ndarray
    away: np.ndarray

    @property
    def compared(self) -> bool:
        return bool(len(self.away)) and not np.isnan(self.away[0])


Tries = list[Try]  # of one sentence by one voice


def sentences(out: Path, first: int, count: int) -> list[str]:
    """`count` of the texts after the first `first` that a listener can judge: never a held-out one."""
    judged = (
        line["text"]
        for line in texts.read(out)
        if not line["test"]
        and line["kind"] != "words"
        and len(line["text"]) in CHARACTERS
        and is_plain(line["text"])
        and knows(line["text"])
    )
    return [text for position, text in enumerate(judged) if first <= position < first + count]


def teachers_bands(out: Path, said: list[str]) -> dict[str, np.ndarray]:
    """(hops, 80) log power of each of `said` that features/ describes."""
    if not (out / "features").exists():
        return {}
    from training import features, speech  # which want the teacher's tools, as does likeness

    wanted = set(said)
    shards = {line["id"] // speech.SENTENCES_PER_SHARD for line in texts.read(out) if line["text"] in wanted}
    names = {f"{shard:05d}" for shard in shards} & set(features.shards(out))
    described = (one for name in sorted(names) for one in features.read(out, name))
    return {one.line["text"]: one.bands for one in described if one.line["text"] in wanted}


def make(out: Path, model: Llama, snac: Path, number: int, said: list[str], tries: int) -> list[Tries]:
    """Say each of `said` `tries` times with `model` and the codec in `snac`, by a voice drawn for it, and listen.

    `number` is the round's.
    """
    folder = out / "tries" / str(number)
    if not (folder / "model.gguf").exists():
        unfinished = folder / ".model.gguf.part"
        folder.mkdir(parents=True, exist_ok=True)
        gguf_file.write(model, unfinished, "Q8_0")
        os.replace(unfinished, folder / "model.gguf")
    shards = [said[first : first + SENTENCES_PER_SHARD] for first in range(0, len(said), SENTENCES_PER_SHARD)]
    names = [folder / f"{position:05d}.npz" for position in range(len(shards))]
    missing = [(name, shard) for name, shard in zip(names, shards, strict=True) if not name.exists()]
    taught = teachers_bands(out, [text for _, shard in missing for text in shard])
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        waited = [
            pool.submit(_make_shard, name, snac, [(text, taught.get(text)) for text in shard], tries)
            for name, shard in missing
        ]
        for one in track(waited, f"tries {number}"):
            one.result()
    return [tried for name in names for tried in read(name)]


def _make_shard(target: Path, snac: Path, said: list[tuple[str, np.ndarray | None]], tries: int) -> None:
    torch.set_num_threads(1)  # a shard has a core to itself
    draw = Random(f"{target.parent.name} {target.stem}")
    made = []
    for text, taught in said:
        speaker = draw.choice(SPEAKERS)
        made += [
            _try(target.with_name("model.gguf"), snac, text, taught, speaker.name, draw.getrandbits(32))
            for _ in range(tries)
        ]
    write(target, made)


def _try(model: Path, snac: Path, text: str, taught: np.ndarray | None, voice: str, seed: int) -> Try:
    network, decoder, codes = _decoder(snac)
    longest = int(FRAMES_A_LETTER * len(text) + 12) * SLOTS
    placed, ended = opened(model, codes).frames(text, voice, TEMPERATURE, TOP_P, seed, longest)
    frames = placed % codes
    count = len(words(text).split())
    spans = np.zeros((count, 2), int)
    if not len(frames):
        unheard = np.zeros(count, bool), np.full(count, whisper.UNHEARD)
        return Try(text, voice, frames, ended, 1.0, *unheard, spans, np.zeros(0))
    audio = decoder.decode(placed)
    right, wrong = understood(text, listen.hear(audio))
    said_s = when_said(audio, text)
    if len(said_s) == count:
        first, last = np.floor(said_s / (FRAME_SAMPLES / RATE_HZ)).astype(int).T
        spans = np.stack([first, np.minimum(last + 1, len(frames))], axis=1)
    sure = whisper.sure(audio, text)
    return Try(text, voice, frames, ended, wrong, right, sure, spans, _away(network, codes, frames, taught))


def _away(snac: SNAC, codes: int, frames: np.ndarray, taught: np.ndarray | None) -> np.ndarray:
    far = None
    if taught is not None:
        from training import likeness

        heard, _, _ = likeness.described(snac, without_speaker(frames, codes))
        far = likeness.away(heard, taught)
    return np.full(len(frames), np.nan) if far is None else far


@cache
def _decoder(folder: Path) -> tuple[SNAC, OfflineDecoder, int]:
    snac = SNAC.from_pretrained(str(folder))
    return snac, OfflineDecoder(snac), codes_a_slot(snac.codebook_size)


def write(target: Path, made: Tries) -> None:
    """All of `made` in one file."""
    lines = "\n".join(f"{one.voice}\t{one.text}" for one in made)
    save_arrays(
        target,
        lines=np.frombuffer(lines.encode(), np.uint8),
        lengths=np.array([len(one.frames) for one in made], np.int32),
        ended=np.array([one.ended for one in made], bool),
        wrong=np.array([one.wrong for one in made], np.float32),
        frames=np.concatenate([one.frames.reshape(-1, SLOTS) for one in made]).astype(np.uint16),
        counts=np.array([len(one.right) for one in made], np.int32),
        right=np.concatenate([one.right for one in made]),
        sure=np.concatenate([one.sure for one in made]).astype(np.float32),
        spans=np.concatenate([one.spans for one in made]).astype(np.int16),
        away=np.concatenate([one.away for one in made]).astype(np.float32),
    )


def read(file: Path) -> list[Tries]:
    """What `write` wrote, the tries of a sentence together."""
    with np.load(file) as stored:
        part = {name: stored[name] for name in stored.files}
    if "away" not in part:
        raise SystemExit(
            f"{file} is of an older recipe: delete {file.parent} and run `--stage preference` again."
        )
    ends = np.cumsum(part["lengths"])[:-1]
    frames, away = np.split(part["frames"].astype(int), ends), np.split(part["away"], ends)
    ends = np.cumsum(part["counts"])[:-1]
    right, sure, spans = (np.split(part[name], ends) for name in ("right", "sure", "spans"))
    made = []
    for position, line in enumerate(part["lines"].tobytes().decode().split("\n")):
        voice, text = line.split("\t")
        ended, wrong = bool(part["ended"][position]), float(part["wrong"][position])
        heard = right[position], sure[position], spans[position].astype(int)
        made.append(Try(text, voice, frames[position], ended, wrong, *heard, away[position]))
    return [list(group) for _, group in groupby(made, key=lambda one: one.text)]
