"""The weights in use → whether they are whole, an Orpheus and its SNAC, and fit each other.

Knows nothing of how fast they run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orpheus import weights
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.prompt import turn_text
from orpheus.settings import REAL_CODEC, Settings
from orpheus.vocabulary import (
    CODES_PER_SLOT,
    END_OF_SPEECH,
    FIRST_CODE,
    PUBLISHED_BASE_ID,
    START_OF_SPEECH,
    token_text,
)

if TYPE_CHECKING:
    from orpheus.llama.backend import Model


def fetch(settings: Settings) -> Iterator[Finding]:
    """Both are on this disk afterwards, fetched where need be with the hub's own progress bar."""
    yield passed(f"model at {weights.find_model(settings)}")
    yield passed(f"codec at {weights.find_codec(settings)}")


def model(settings: Settings) -> Iterator[Finding]:
    """The file's hash, its vocabulary, its end token, and a prompt in its ids."""
    path = weights.find_model(settings)
    yield _hashed(path)
    loaded = _load(path)
    try:
        vocabulary = loaded.vocabulary
        first = vocabulary.code_ids[0].start
        published = first == PUBLISHED_BASE_ID + FIRST_CODE and vocabulary.codes == CODES_PER_SLOT
        yield passed(
            f"{vocabulary.size} tokens, {vocabulary.codes} codes a slot from id {first} on"
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
    """Both files, and every tensor in the shape that config.json says."""
    from orpheus.codec.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_config
    from orpheus.codec.decoder import Decoder

    folder = weights.find_codec(settings)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        yield _hashed(folder / file)
    shape = read_config(folder)
    Decoder.load(folder)  # WeightsError where a tensor is missing or misshapen
    told = f"{shape.sample_rate} Hz, {shape.codes} codes, {4 * shape.hop} samples a frame"
    if shape.sample_rate != 24000:
        yield warning(f"{told}: Orpheus was trained on 24000 Hz; set ORPHEUS_CODEC to {REAL_CODEC}.")
    else:
        yield passed(told)


def fit(settings: Settings) -> Iterator[Finding]:
    """The codec has every code the model can say."""
    from orpheus.codec.checkpoint import read_config

    known = read_config(weights.find_codec(settings)).codes
    loaded = _load(weights.find_model(settings))
    said = loaded.vocabulary.span
    loaded.close()
    if said > known:
        yield failed(
            f"the model says {said} codes, the codec knows {known}: set ORPHEUS_CODEC to the codec the model "
            "was trained with, or unset it."
        )
    elif said < known:
        yield warning(f"the model says {said} codes, the codec knows {known}: are they a pair?")
    else:
        yield passed(f"model and codec agree on {known} codes")


def _load(path: Path) -> Model:
    from orpheus.llama.backend import Model

    return Model(path, gpu_layers=0)  # mapped, not read: the vocabulary is all that is wanted


def _hashed(path: Path) -> Finding:
    """The file's SHA-256, held against the one the hub keeps it under where it came from there."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    told = f"{path.name}, {path.stat().st_size:,} bytes, sha256 {found[:16]}"
    kept_as = path.resolve().name  # the hub's cache names large files by their hash
    if re.fullmatch("[0-9a-f]{64}", kept_as) and kept_as != found:
        return failed(
            f"{told} should be {kept_as[:16]}: damaged. Delete {path.resolve()} and fetch it again."
        )
    return passed(told + (", as on the hub" if kept_as == found else ""))
