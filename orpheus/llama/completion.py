"""The engine's input and output: a checked completion, and the chunks of tokens it produces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from orpheus.sampling import Sampling

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """What to generate. Made from a `CompletionRequest`, or directly by a caller in this process."""

    prompt: tuple[int, ...]  # token ids
    max_tokens: int
    sampling: Sampling
    constrained: bool = True  # audio tokens only, each from the slot that is due
    stop_ids: frozenset[int] = frozenset()  # end the stream too, besides end-of-speech, which always does


@dataclass(frozen=True)
class CompletionChunk:
    """A frame of 7 tokens; the last chunk may hold fewer, or none."""

    ids: tuple[int, ...]
    numbers: tuple[int, ...]  # N of <custom_token_N>, for those ids that have one
    finish_reason: FinishReason | None  # set on the last chunk

    def by_token(self) -> Iterator[CompletionChunk]:
        """The same in chunks of one token each."""
        last = len(self.ids) - 1
        if last < 1:
            yield self
            return
        # Without constraint not every id has a number, and which has it is not known here: nobody asks.
        numbers = self.numbers if len(self.numbers) == len(self.ids) else ()
        for index, token in enumerate(self.ids):
            reason = self.finish_reason if index == last else None
            yield CompletionChunk((token,), numbers[index : index + 1], reason)
