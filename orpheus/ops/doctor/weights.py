"""Checks of the weights in use: intact, an Orpheus and its SNAC, matching each other, and decoded exactly."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orpheus import weights
from orpheus.llama import trimmed_head
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.prompt import turn_text
from orpheus.settings import REAL_CODEC, Settings
from orpheus.tts.served_model import ServedModel
from orpheus.vocabulary import (
    CODES_PER_SLOT,
    END_OF_SPEECH,
    FIRST_CODE,
    PUBLISHED_BASE_ID,
    SLOTS,
    START_OF_SPEECH,
    token_text,
)

if TYPE_CHECKING:
    from orpheus.llama.backend import Model

EXACT = 1e-4  # of the loudest sample: -80 dB, below what 16 bits of speech let through
FRAMES = 40


def fetch(settings: Settings) -> Iterator[Finding]:
    """Fetch whichever is not on this disk yet, with the hub's own progress bar."""
    yield passed(f"model at {weights.find_model(settings)}")
    yield passed(f"codec at {weights.find_codec(settings)}")


def model(settings: Settings) -> Iterator[Finding]:
    """The file's hash, its vocabulary, its end token, and the ids of a prompt."""
    path = weights.find_model(settings)
    yield _hashed(path)
    if not settings.unconstrained:
        yield from _trimmed(path)
    loaded = _load(path)
    try:
        vocabulary = loaded.vocabulary
        first = vocabulary.code_ids[0].start
        published = first == PUBLISHED_BASE_ID + FIRST_CODE and vocabulary.codes == CODES_PER_SLOT
        yield passed(
            f"{vocabulary.size} tokens, {vocabulary.codes} codes per slot from id {first} on"
            + (", as published" if published else ": a small vocabulary, not the published one")
        )
        end = vocabulary.end_of_speech
        declared = loaded.end_token
        yield passed(
            f"speech ends at {token_text(END_OF_SPEECH)}, id {end}"
            + ("" if declared == end else f" (the file declares {declared}, which is not used)")
        )
        from orpheus.llama.prompt_tokens import prompt_ids

        ids = prompt_ids(loaded, turn_text("tara", "Hello."))
        if ids[-1] != vocabulary.control[START_OF_SPEECH] or len(ids) < 7:
            yield failed(f"a prompt becomes {ids}, which is not the trained turn: fetch the model again.")
        else:
            yield passed(f"a prompt of one word is {len(ids)} tokens, the turn it was trained on")
    finally:
        loaded.close()


def codec(settings: Settings) -> Iterator[Finding]:
    """Both files, and every tensor in the shape that config.json asks for."""
    from orpheus.codec.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_config
    from orpheus.codec.decoder import Decoder

    folder = weights.find_codec(settings)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        yield _hashed(folder / file)
    shape = read_config(folder)
    Decoder.load(folder)  # WeightsError if a tensor is missing or misshapen
    summary = f"{shape.sample_rate} Hz, {shape.codes} codes, {4 * shape.hop} samples a frame"
    if shape.sample_rate != 24000:
        yield warning(f"{summary}: Orpheus was trained on 24000 Hz; set ORPHEUS_CODEC to {REAL_CODEC}.")
    else:
        yield passed(summary)


def fit(settings: Settings) -> Iterator[Finding]:
    """The codec was made for the model, and has every code it can generate."""
    from orpheus.codec.checkpoint import read_config

    config = read_config(weights.find_codec(settings))
    loaded = _load(weights.find_model(settings))
    vocabulary = loaded.vocabulary
    loaded.close()
    known, generated = config.codes, vocabulary.span
    model = ServedModel(
        weights.model_name(settings), vocabulary=vocabulary.size, codes_per_slot=vocabulary.codes
    )
    summary = f"the model generates {generated} codes, the codec knows {known}"
    advice = "set ORPHEUS_CODEC to the codec the model was trained with, or unset it"
    if generated > known:
        yield failed(f"{summary}: {advice}.")
    elif not model.fits(config):
        yield failed(f"the codec is another model's: set ORPHEUS_CODEC={model.codec}, or unset it.")
    elif generated < known:
        yield warning(f"{summary}, so they may not be a pair: {advice}.")
    else:
        yield passed(f"model and codec agree on {known} codes")


def exactness(settings: Settings) -> Iterator[Finding]:
    """Codes in odd portions through the streaming decoder, compared with the snac package decoding all at once."""
    from orpheus.codec import Codec
    from orpheus.codec.offline import OfflineDecoder
    from orpheus.ops.bench.codec import streamed

    folder = weights.find_codec(settings)
    loaded = Codec.load(folder, settings)
    try:
        decoder = loaded.decoder
        random = np.random.default_rng(0)
        codes = random.integers(0, decoder.config.codes, FRAMES * SLOTS)
        cuts = np.cumsum(random.integers(1, 3 * SLOTS, len(codes)))
        started_s = time.perf_counter()
        pcm = streamed(decoder, codes, cuts[cuts < len(codes)].tolist(), seed=1)
        took_s = time.perf_counter() - started_s
        offline = OfflineDecoder.load(folder).decode(codes, seed=1)
    finally:
        loaded.close()
    if len(pcm) != len(offline):
        yield failed(
            f"streaming gave {len(pcm)} samples, the whole {len(offline)}: please report this, with the codec's name."
        )
        return
    error = float(np.abs(pcm - offline).max() / max(1.0, float(np.abs(offline).max())))
    summary = f"streamed and whole differ by at most {error:.1e} of full scale"
    if error < EXACT:
        yield passed(summary)
    else:
        yield failed(f"{summary}: set ORPHEUS_CODEC_DEVICE=cpu, and please report the device.")
    speed = len(offline) / decoder.config.sample_rate / took_s
    summary = f"{decoder.device}: {speed:.1f} times real time, one stream"
    yield passed(summary) if speed > 1 else failed(f"{summary}: too slow to stream; raise ORPHEUS_THREADS.")


def _load(path: Path) -> Model:
    from orpheus.llama.backend import Model

    return Model(path, gpu_layers=0)  # mapped, not read: only the vocabulary is needed


def _trimmed(path: Path) -> Iterator[Finding]:
    """The copy that tier 1 loads in place of the file, if there is one yet."""
    trimmed = trimmed_head.find(path)
    if trimmed is None:
        return
    summary = f"tier 1 loads {trimmed.path.stat().st_size:,} bytes of it, {trimmed.rows} rows of the output"
    if trimmed_head.is_intact(trimmed):
        yield passed(summary)
    else:
        yield warning(f"{summary}, which were damaged and are removed: the next start makes them again.")


def _hashed(path: Path) -> Finding:
    """The file's SHA-256, compared with the hub's if the file came from there."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    summary = f"{path.name}, {path.stat().st_size:,} bytes, sha256 {found[:16]}"
    kept_as = path.resolve().name  # large files in the hub's cache are named by their hash
    if re.fullmatch("[0-9a-f]{64}", kept_as) and kept_as != found:
        return failed(
            f"{summary} should be {kept_as[:16]}: damaged. Delete {path.resolve()} and fetch it again."
        )
    return passed(summary + (", as on the hub" if kept_as == found else ""))
