"""Samples → an endless sequence of padded batches of turns of similar length.

The same seed gives the same batches, and the sequence can be entered at any batch.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from orpheus.vocabulary import SLOTS
from training import turns
from training.samples import Sample
from training.turns import Turn


@dataclass(frozen=True)
class Batch:
    """Padded turns. ids, weight, position, phone (b, t); text_start, text_end (b,)."""

    ids: Tensor
    weight: Tensor
    position: Tensor
    phone: Tensor
    text_start: Tensor
    text_end: Tensor


def collate(batch: list[Turn], device: str) -> Batch:
    """Pad to the longest; a padded position has no weight, and no real position sees it."""
    length = math.ceil(max(len(one.ids) for one in batch) / 32) * 32

    def pad(rows: list[np.ndarray], value: float) -> Tensor:
        out = np.full((len(rows), length), value, rows[0].dtype)
        for position, row in enumerate(rows):
            out[position, : len(row)] = row
        return torch.from_numpy(out).to(device, non_blocking=True)

    return Batch(
        ids=pad([one.ids for one in batch], turns.CONTROL_ID[7]),
        weight=pad([one.weight for one in batch], 0),
        position=pad([one.position for one in batch], turns.NO_POSITION),
        phone=pad([one.phone for one in batch], -1),
        text_start=torch.tensor([one.text_start for one in batch], device=device),
        text_end=torch.tensor([one.text_end for one in batch], device=device),
    )


def batches(samples: list[Sample], codes: int, tokens: int, seed: int, first: int) -> Iterator[list[Turn]]:
    """Endless batches of turns of like length from batch number `first`; the same seed gives the same ones."""
    number = 0
    epoch = 0
    while True:
        draw = Random(f"{seed} {epoch}")
        # Like lengths together, yet in another order every epoch.
        order = sorted(range(len(samples)), key=lambda one: len(samples[one].frames) * draw.uniform(0.9, 1.1))
        groups: list[list[int]] = [[]]
        for one in order:
            longest = len(samples[one].frames) * SLOTS + len(samples[one].text) + 16
            if groups[-1] and longest * (len(groups[-1]) + 1) > tokens * 1.15:
                groups.append([])
            groups[-1].append(one)
        draw.shuffle(groups)
        for group in groups:
            if number >= first:
                picker = Random(f"{seed} {epoch} {number}")
                yield [turns.turn(samples[one], codes, picker) for one in group]
            number += 1
        epoch += 1


def ahead(source: Iterator[list[Turn]], device: str) -> Iterator[Batch]:
    """Collate in a thread, a few batches ahead: a GPU is done with a batch before Python has made the next."""
    made: queue.Queue[Batch | Exception] = queue.Queue(maxsize=4)

    def fill() -> None:
        try:
            for one in source:
                made.put(collate(one, device))
        except Exception as error:
            made.put(error)  # raised where the batch is waited for

    threading.Thread(target=fill, daemon=True).start()
    while True:
        batch = made.get()
        if isinstance(batch, Exception):
            raise batch
        yield batch
