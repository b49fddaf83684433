"""Finished responses to requests with a seed, keyed by everything that determines their bytes; LRU.

Speech is sampled: without a seed two responses differ, and none is kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass

from cachetools import LRUCache

from orpheus.tts.params import SpeechParams
from orpheus.tts.usage import Usage

ENTRY_BYTES = 1024  # what an entry takes beside its body


@dataclass(frozen=True)
class CachedResponse:
    """The bytes of one complete stream and what they cost to make."""

    body: bytes
    prompt_tokens: int
    audio_tokens: int


class ResponseCache:
    """At most `max_bytes` of responses. Used from one event loop."""

    def __init__(self, max_bytes: int, weights: Callable[[], Hashable]) -> None:
        """`weights`: the model and the codec in use now."""
        self._weights = weights
        self._max_bytes = max_bytes
        self._responses: LRUCache[tuple[object, ...], CachedResponse] = LRUCache(
            max_bytes, getsizeof=lambda response: len(response.body) + ENTRY_BYTES
        )

    def accepts(self, params: SpeechParams) -> bool:
        """Whether responses with these parameters can be kept at all."""
        return self._max_bytes > 0 and params.sampling.seed is not None

    def find(self, text: str, params: SpeechParams) -> CachedResponse | None:
        return self._responses.get((self._weights(), text, params))

    async def keep(
        self, text: str, params: SpeechParams, usage: Usage, chunks: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """Pass `chunks` through and keep them once they end well; a stream that breaks leaves nothing."""
        parts: list[bytes] = []
        size = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                size += len(chunk)
                if size < self._max_bytes:
                    parts.append(chunk)
                else:
                    parts.clear()
                yield chunk
        if size + ENTRY_BYTES <= self._max_bytes:
            response = CachedResponse(b"".join(parts), usage.prompt_tokens, usage.audio_tokens)
            self._responses[self._weights(), text, params] = response
