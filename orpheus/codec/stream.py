"""One stream's codes, memory and place; several streams → one step. No threads and no clock in it.

Knows nothing of who is waiting. Codes come flat, in slot order; a latent is ready once half of its frame is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from orpheus.codec.checkpoint import LATENTS_PER_FRAME, VQ_STRIDES
from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import OPEN_END
from orpheus.errors import EngineError
from orpheus.vocabulary import SLOTS, frame_to_layers

HALF_FRAME_SLOTS = 4  # slots 0 … 3 hold all three layers of a frame's first two latents
Codes = Sequence[int] | NDArray[np.integer]


class StreamState:
    """What one stream needs to go on: `decoder.floats` floats, the codes not decoded yet, and where it stands.

    `lookahead`: latents of right context from which the first frame is approximated; exact from `decoder.tail` on.
    That many and no more, however fast codes come, so that a seed sounds the same on an idle and a busy machine.
    """

    def __init__(self, decoder: Decoder, seed: int, lookahead: int) -> None:
        self.memory = decoder.new_memory()[0]
        self.seed = seed
        self.position = 0  # latents fed
        self.end = OPEN_END  # latents of the whole stream, once known
        self.emitted = 0  # samples
        self.dropped = 0  # codes at the end that made no latent
        self._hop, self._delay, self._tail = decoder.hop, decoder.delay, decoder.tail
        self._limit = decoder.shape.codes
        self._lookahead = lookahead
        self._codes = np.zeros(0, np.int64)  # of the frame that is not complete
        self._given = 0  # latents of that frame already in `_latents`
        self._latents = np.zeros((0, len(VQ_STRIDES)), np.int64)
        self._pcm: list[NDArray[np.float32]] = []

    @property
    def ready(self) -> int:
        """Latents that can be fed."""
        if self._starts_early:
            return min(len(self._latents), LATENTS_PER_FRAME + self._lookahead - self.position)
        return len(self._latents)

    @property
    def finished(self) -> bool:
        return self.end != OPEN_END

    def push(self, codes: Codes) -> None:
        """Take codes in slot order, from where the last push ended. EngineError where one is out of range."""
        self._codes = np.concatenate([self._codes, checked(codes, self._limit)])
        frames, rest = divmod(len(self._codes), SLOTS)
        complete = frames * LATENTS_PER_FRAME + (LATENTS_PER_FRAME // 2 if rest >= HALF_FRAME_SLOTS else 0)
        padded = np.pad(self._codes, (0, -len(self._codes) % SLOTS))
        layers = frame_to_layers(padded.reshape(-1, SLOTS))
        latents = np.stack([np.repeat(row, n) for row, n in zip(layers, VQ_STRIDES, strict=True)], axis=1)
        self._latents = np.concatenate([self._latents, latents[self._given : complete]])
        self._given = complete - frames * LATENTS_PER_FRAME
        self._codes = self._codes[frames * SLOTS :]

    def finish(self) -> None:
        """No more codes: the end is where the last complete latent is. Codes after it are dropped and counted."""
        if self.finished:
            return
        used = HALF_FRAME_SLOTS if self._given else 0
        self.dropped = len(self._codes) - used
        self.end = self.position + len(self._latents)
        if self.end:
            self._latents = np.pad(self._latents, ((0, self._tail), (0, 0)))

    def feed(self, count: int) -> NDArray[np.int64]:
        """Take the next `count` latents' codes."""
        taken, self._latents = self._latents[:count], self._latents[count:]
        return taken

    def accept(self, samples: NDArray[np.float32]) -> None:
        """A step's output, which begins at `position` · hop - delay: keep what is sound and was not emitted yet."""
        start = self.position * self._hop - self._delay
        self.position += len(samples) // self._hop
        self._keep(samples, start, self.end * self._hop)

    @property
    def _starts_early(self) -> bool:
        """Is the first frame still to be approximated? A stream too short for that is exact."""
        return (
            self._lookahead < self._tail
            and self.emitted < LATENTS_PER_FRAME * self._hop
            and self.end >= LATENTS_PER_FRAME + self._lookahead
        )

    @property
    def may_start_early(self) -> bool:
        """Is the first frame not out yet, and is enough known to approximate the rest of it?"""
        return self._starts_early and self.position == LATENTS_PER_FRAME + self._lookahead

    def start_early(self, samples: NDArray[np.float32]) -> None:
        """The output of a step on a copy of the memory, as if the stream ended here: keep up to the first frame."""
        start = self.position * self._hop - self._delay
        self._keep(samples, start, LATENTS_PER_FRAME * self._hop)

    def _keep(self, samples: NDArray[np.float32], start: int, stop: int) -> None:
        piece = samples[max(self.emitted - start, 0) : max(stop - start, 0)]
        self.emitted += len(piece)
        if len(piece):
            self._pcm.append(piece)

    def take(self) -> NDArray[np.float32]:
        """The samples that became final since the last take, (n,)."""
        pieces, self._pcm = self._pcm, []
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def checked(codes: Codes, limit: int) -> NDArray[np.int64]:
    """Flat int64 codes. EngineError where one is not in 0 … limit - 1."""
    flat = np.asarray(codes, dtype=np.int64).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= limit):
        wrong = int(flat[(flat < 0) | (flat >= limit)][0])
        raise EngineError(
            f"Code {wrong} is outside 0 … {limit - 1}: the tokens do not fit this codec: set ORPHEUS_CODEC to the "
            "codec the model was trained with."
        )
    return flat


def choose_step(decoder: Decoder, states: Iterable[StreamState]) -> tuple[list[StreamState], int]:
    """Which streams to decode together now, and how many latents of each.

    All streams that have latents ready advance by what the least ready of them has; oldest first, as many as
    `decoder.most_latents` allows.
    """
    waiting = [state for state in states if state.ready]
    if not waiting:
        return [], 0
    count = decoder.fit(min(decoder.most_latents, *(state.ready for state in waiting)))
    return waiting[: max(1, decoder.most_latents // count)], count


def advance(decoder: Decoder, states: Sequence[StreamState], count: int) -> None:
    """Decode `count` ready latents of each stream in one step; each keeps its samples."""
    codes = torch.from_numpy(np.stack([state.feed(count) for state in states]))
    memory = torch.stack([state.memory for state in states]) if len(states) > 1 else states[0].memory[None]
    pcm = decoder.step(
        memory,
        codes,
        [state.position for state in states],
        [state.end for state in states],
        [state.seed for state in states],
    )
    for row, (state, samples) in enumerate(zip(states, pcm.cpu().numpy(), strict=True)):
        if len(states) > 1:  # copied back, not kept as a view: a view would keep the whole batch alive
            state.memory.copy_(memory[row])
        state.accept(samples)


def start_early(decoder: Decoder, states: Sequence[StreamState]) -> None:
    """Give each stream that may the rest of its first frame, decoded as if it ended here; its own memory is not touched."""
    states = [state for state in states if state.may_start_early]
    if not states:
        return
    first = LATENTS_PER_FRAME * decoder.hop
    behind = max(first + decoder.delay - state.position * decoder.hop for state in states)
    count = -(-behind // decoder.hop)
    pcm = decoder.step(
        torch.stack([state.memory for state in states]),
        torch.zeros(len(states), count, len(VQ_STRIDES), dtype=torch.int64),
        [state.position for state in states],
        [state.position for state in states],
        [state.seed for state in states],
    )
    for state, samples in zip(states, pcm.cpu().numpy(), strict=True):
        state.start_early(samples)


def decode_all(decoder: Decoder, states: Sequence[StreamState]) -> list[NDArray[np.float32]]:
    """Decode all that is ready in all streams; → the samples of each that became final."""
    while True:
        chosen, count = choose_step(decoder, states)
        if chosen:
            advance(decoder, chosen, count)
        start_early(decoder, states)
        if not any(state.ready for state in states):
            break
    return [state.take() for state in states]
