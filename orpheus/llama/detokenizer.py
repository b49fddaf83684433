"""Token chunks → text, up to a stop string.

Audio tokens read `<custom_token_N>`. Text tokens may end inside a character, or inside what may become a stop string:
such an ending is held back until it is clear what it is.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from orpheus.llama.completion import CompletionChunk
from orpheus.vocabulary import token_text


class IncrementalDetokenizer:
    """The text of one completion, a chunk at a time."""

    def __init__(
        self, token_bytes: Callable[[int], bytes], stops: Sequence[str], *, constrained: bool
    ) -> None:
        """`stops` are looked for in unconstrained text only."""
        self._token_bytes = token_bytes
        self._stops = () if constrained else tuple(stops)
        self._constrained = constrained
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.stopped = False  # a stop string was found: nothing after it is wanted

    def detokenize(self, chunk: CompletionChunk) -> str:
        """The text this chunk adds."""
        if self._constrained:
            return "".join(map(token_text, chunk.numbers))
        last = chunk.finish_reason is not None
        text = self._held + self._decode(b"".join(map(self._token_bytes, chunk.ids)), last)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next(
        (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
    )
