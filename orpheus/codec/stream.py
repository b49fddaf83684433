"""The state of each stream between steps, and steps of several streams together. No threads, no clock.

Codes come flat, in slot order. A frame's four latents become ready two at a time: its first four codes complete two.
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
    """One stream: its `decoder.floats` floats of memory, its codes not decoded yet, and its position."""

    def __init__(self, decoder: Decoder, seed: int, lookahead: int) -> None:
        """`lookahead`: latents of right context from which the first frame is approximated.

        From `decoder.tail` on it is exact. Never more than that, however fast codes come, so that a seed sounds the
        same on an idle and a busy machine.
        """
        self.memory = decoder.new_memory()[0]
        self.seed = seed
        self.position = 0  # latents decoded
        self.end = OPEN_END  # latents of the whole stream, once known
        self.emitted = 0  # samples
        self.dropped = 0  # codes at the end that are too few for a latent
        self._hop, self._delay, self._tail = decoder.hop, decoder.delay, decoder.tail
        self._codebook_size = decoder.config.codes
        self._lookahead = lookahead
        self._codes = np.zeros(0, np.int64)  # of the incomplete frame
        self._taken = 0  # latents of that frame already in `_latents`
        self._latents = np.zeros((0, len(VQ_STRIDES)), np.int64)
        self._pcm: list[NDArray[np.float32]] = []

    @property
    def ready(self) -> int:
        """Latents that can be decoded."""
        if self._starts_early:
            return min(len(self._latents), LATENTS_PER_FRAME + self._lookahead - self.position)
        return len(self._latents)

    def gives(self, codes: int) -> bool:
        """Whether so many more codes make samples final. The first frame takes two, and the next samples take four."""
        frames, rest = divmod(len(self._codes) + codes, SLOTS)
        complete = frames * LATENTS_PER_FRAME + (LATENTS_PER_FRAME // 2 if rest >= HALF_FRAME_SLOTS else 0)
        latents = self.position + len(self._latents) + complete - self._taken
        if self._lookahead < self._tail and not self.emitted:
            return latents >= LATENTS_PER_FRAME + self._lookahead
        return latents * self._hop - self._delay > self.emitted

    @property
    def finished(self) -> bool:
        return self.end != OPEN_END

    def add_codes(self, codes: Codes) -> None:
        """Take any number of codes in slot order, continuing where the last call ended. EngineError if one is out of range."""
        self._codes = np.concatenate([self._codes, checked(codes, self._codebook_size)])
        frames, rest = divmod(len(self._codes), SLOTS)
        complete = frames * LATENTS_PER_FRAME + (LATENTS_PER_FRAME // 2 if rest >= HALF_FRAME_SLOTS else 0)
        padded = np.pad(self._codes, (0, -len(self._codes) % SLOTS))
        layers = frame_to_layers(padded.reshape(-1, SLOTS))
        latents = np.stack([np.repeat(row, n) for row, n in zip(layers, VQ_STRIDES, strict=True)], axis=1)
        self._latents = np.concatenate([self._latents, latents[self._taken : complete]])
        self._taken = complete - frames * LATENTS_PER_FRAME
        self._codes = self._codes[frames * SLOTS :]

    def finish(self) -> None:
        """End the stream after the last complete latent. Codes after it are dropped and counted."""
        if self.finished:
            return
        used = HALF_FRAME_SLOTS if self._taken else 0
        self.dropped = len(self._codes) - used
        self.end = self.position + len(self._latents)
        if self.end:
            self._latents = np.pad(self._latents, ((0, self._tail), (0, 0)))

    def next_codes(self, count: int) -> NDArray[np.int64]:
        """Take out the codes of the next `count` latents: (count, 3)."""
        taken, self._latents = self._latents[:count], self._latents[count:]
        return taken

    def accept(self, samples: NDArray[np.float32]) -> None:
        """Keep what is new in a step's output, which begins at sample `position` · hop - delay."""
        start = self.position * self._hop - self._delay
        self.position += len(samples) // self._hop
        self._keep(samples, start, self.end * self._hop)

    @property
    def _starts_early(self) -> bool:
        """Whether the first frame is still to be approximated. A stream too short for that is exact."""
        return (
            self._lookahead < self._tail
            and self.emitted < LATENTS_PER_FRAME * self._hop
            and self.end >= LATENTS_PER_FRAME + self._lookahead
        )

    @property
    def may_start_early(self) -> bool:
        """Whether the rest of the first frame is to be approximated now: it is not out, and enough is known."""
        return self._starts_early and self.position == LATENTS_PER_FRAME + self._lookahead

    def start_early(self, samples: NDArray[np.float32]) -> None:
        """Keep the first frame from the output of a step on a copy of the memory, as if the stream ended here."""
        start = self.position * self._hop - self._delay
        self._keep(samples, start, LATENTS_PER_FRAME * self._hop)

    def _keep(self, samples: NDArray[np.float32], start: int, stop: int) -> None:
        new = samples[max(self.emitted - start, 0) : max(stop - start, 0)]
        self.emitted += len(new)
        if len(new):
            self._pcm.append(new)

    def take(self) -> NDArray[np.float32]:
        """The samples that became final since the last call, float32 (n,)."""
        samples, self._pcm = self._pcm, []
        return np.concatenate(samples) if samples else np.zeros(0, np.float32)


def checked(codes: Codes, codebook_size: int) -> NDArray[np.int64]:
    """Flat int64 codes. EngineError if one is not below `codebook_size`."""
    flat = np.asarray(codes, dtype=np.int64).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= codebook_size):
        wrong = int(flat[(flat < 0) | (flat >= codebook_size)][0])
        raise EngineError(
            f"Code {wrong} is outside 0 … {codebook_size - 1}: the tokens do not fit this codec: set ORPHEUS_CODEC to "
            "the codec the model was trained with."
        )
    return flat


def choose_step(
    decoder: Decoder, states: Iterable[StreamState], *, before_first: bool = False
) -> tuple[list[StreamState], int]:
    """Which streams to decode together now, and how many latents of each.

    All streams that have latents ready advance by as many as the least ready of them has; in their order, as many
    streams as the decoder's `max_latents` (or those `before_first`) and `max_streams` allow.
    """
    ready = [state for state in states if state.ready]
    if not ready:
        return [], 0
    most = decoder.max_latents_before_first if before_first else decoder.max_latents
    count = decoder.fit(min(most, *(state.ready for state in ready)))
    return ready[: max(1, min(decoder.max_streams, most // count))], count


def advance(decoder: Decoder, states: Sequence[StreamState], count: int) -> None:
    """Decode `count` ready latents of each stream in one step; each state keeps its samples."""
    codes = torch.from_numpy(np.stack([state.next_codes(count) for state in states]))
    memory = torch.stack([state.memory for state in states]) if len(states) > 1 else states[0].memory[None]
    pcm = decoder.step(
        memory,
        codes,
        [state.position for state in states],
        [state.end for state in states],
        [state.seed for state in states],
    )
    for row, (state, samples) in enumerate(zip(states, pcm.cpu().numpy(), strict=True)):
        if len(states) > 1:  # copied back: a view would keep the whole batch alive
            state.memory.copy_(memory[row])
        state.accept(samples)


def start_early(decoder: Decoder, states: Sequence[StreamState]) -> None:
    """Approximate the rest of the first frame of those streams that may: decode a copy as if the stream ended here."""
    states = [state for state in states if state.may_start_early]
    if not states:
        return
    first = LATENTS_PER_FRAME * decoder.hop
    behind = max(first + decoder.delay - state.position * decoder.hop for state in states)
    memory = torch.stack([state.memory for state in states])
    ends = [state.position for state in states]
    positions = list(ends)
    parts = []
    for count in decoder.split(-(-behind // decoder.hop)):
        codes = torch.zeros(len(states), count, len(VQ_STRIDES), dtype=torch.int64)
        parts.append(decoder.step(memory, codes, positions, ends, [state.seed for state in states]))
        positions = [position + count for position in positions]
    for state, samples in zip(states, torch.cat(parts, dim=1).cpu().numpy(), strict=True):
        state.start_early(samples)


def decode_all(decoder: Decoder, states: Sequence[StreamState]) -> list[NDArray[np.float32]]:
    """Decode all that is ready in all streams; → each stream's samples that became final."""
    while True:
        chosen, count = choose_step(decoder, states)
        if chosen:
            advance(decoder, chosen, count)
        start_early(decoder, states)
        if not any(state.ready for state in states):
            break
    return [state.take() for state in states]
