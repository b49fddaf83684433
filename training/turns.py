"""A sentence, its codes and a speaker → one turn of token ids as Orpheus is trained on, and the guides for training it.

Token names and order are the published ones; text is encoded as bytes, and there are as many codes as the coder has.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from orpheus.vocabulary import BEGIN_OF_TEXT, END_OF_TURN, LEGACY_AUDIO, SLOTS, number_of, token_text
from training.clock import LATENTS
from training.samples import Sample, as_speaker, in_codebooks
from training.speakers import SPEAKERS

BYTES = 256
BEGIN, END_TURN = BYTES, BYTES + 1
CONTROLS = (3, 4, 5, 1, 2, 7)  # numbers of the control tokens, in id order
CONTROL_ID = {number: BYTES + 2 + position for position, number in enumerate(CONTROLS)}
FIRST_CODE_ID = BYTES + 2 + len(CONTROLS)
SLOT_LATENT = np.array([0, 0, 0, 1, 2, 2, 3])  # the latent a slot is about
SLOT_LEVEL = np.array([0, 1, 2, 2, 1, 2, 2])  # coarse, middle, fine
UNHEARD_TAGS = ("<cough>", "<sniffle>", "<yawn>", "<gasp>")  # accepted and passed over in silence
NO_POSITION = -1.0


def vocabulary_size(codes: int) -> int:
    return FIRST_CODE_ID + SLOTS * codes + 1


def legacy_audio(codes: int) -> int:
    """Id of <|audio|>, the last token."""
    return FIRST_CODE_ID + SLOTS * codes


def token_texts(codes: int) -> list[str]:
    """Every token's text in id order; bytes as GPT-2 writes them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + position) for position, byte in enumerate(hidden)
    }
    first_codes = in_codebooks(np.zeros((1, SLOTS), int), codes)[0]
    return [
        *(letters[byte] for byte in range(BYTES)),
        BEGIN_OF_TEXT,
        END_OF_TURN,
        *(token_text(number) for number in CONTROLS),
        *(
            token_text(number_of(slot, first + code))
            for slot, first in enumerate(first_codes)
            for code in range(codes)
        ),
        LEGACY_AUDIO,
    ]


@dataclass(frozen=True)
class Turn:
    """Token ids (t,), and for each: its loss weight, the token of text it speaks, its phoneme; -1 where none."""

    ids: np.ndarray
    weight: np.ndarray
    position: np.ndarray
    phone: np.ndarray
    text_start: int
    text_end: int


def prompt(text: str, voice: str) -> list[int]:
    """The turn up to the first code."""
    opening = [CONTROL_ID[3], BEGIN, *f"{voice}: {text}".encode()]
    return [*opening, END_TURN, CONTROL_ID[4], CONTROL_ID[5], CONTROL_ID[1]]


def spoken_ids(frames: np.ndarray, codes: int) -> np.ndarray:
    """Token ids (7n,) of frames (n, 7) with the speaker in them, codes from 0 in every slot."""
    ids: np.ndarray = (frames + FIRST_CODE_ID + np.arange(SLOTS) * codes).reshape(-1)
    return ids


def turn(sample: Sample, codes: int, draw: Random, vary: bool = True) -> Turn:
    """`sample` said by one of the speakers of its rate. With `vary`, as other front ends write prompts too."""
    speakers = [position for position, one in enumerate(SPEAKERS) if one.rate == sample.rate]
    speaker = draw.choice(speakers)
    text, positions = sample.text, sample.positions.astype(np.float32)
    if vary and draw.random() < 0.03:
        spaces = [position for position, letter in enumerate(text) if letter == " "] or [0]
        at, tag = draw.choice(spaces), f" {draw.choice(UNHEARD_TAGS)}"
        text, positions = (
            text[:at] + tag + text[at:],
            np.where(positions >= at, positions + len(tag), positions),
        )
    ids = prompt(text, SPEAKERS[speaker].name)
    text_start = 2 + len(SPEAKERS[speaker].name) + 2
    form = draw.random() if vary else 1.0
    if form < 0.03:  # served form: BOS is put before the string that holds one
        ids, text_start = [BEGIN, *ids], text_start + 1
    elif form < 0.06:  # older front ends put a mark where the turn's opening is
        ids = [BEGIN, legacy_audio(codes), *ids[2:]]
    weight = np.zeros(len(ids), np.float32)
    weight[-3:] = 1.0  # the older form leaves the opening of speech to the model
    frames = as_speaker(sample.frames, speaker, codes)
    spoken = spoken_ids(frames, codes)
    latents = (np.arange(len(frames))[:, None] * LATENTS + SLOT_LATENT).reshape(-1)
    none = np.full(len(ids), NO_POSITION, np.float32)
    return Turn(
        ids=np.concatenate([ids, spoken, [CONTROL_ID[2]]]).astype(np.int64),
        weight=np.concatenate([weight, np.ones(len(spoken) + 1, np.float32)]),
        position=np.concatenate([none, positions[latents] + text_start, [NO_POSITION]]).astype(np.float32),
        phone=np.concatenate([none, sample.phones[latents], [NO_POSITION]]).astype(np.int64),
        text_start=text_start,
        text_end=text_start + len(text.encode()),
    )
