"""Finished answers of requests with a seed, by all that determines their bytes; the longest unused go first.

Knows nothing of HTTP. Speech is sampled: without a seed two answers differ, and none is kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from cachetools import LRUCache

from orpheus.server.service import Prepared
from orpheus.tts.usage import Usage


@dataclass(frozen=True)
class Answer:
    """The bytes of one whole stream and what they cost to make."""

    body: bytes
    prompt_tokens: int
    audio_tokens: int


class ResponseCache:
    """At most `most_bytes` of answers. Used from one event loop."""

    def __init__(self, most_bytes: int, weights: tuple[str, ...]) -> None:
        self._weights = weights
        self._most_bytes = most_bytes
        self._answers: LRUCache[tuple[object, ...], Answer] = LRUCache(
            most_bytes, getsizeof=lambda answer: len(answer.body) + 1024
        )

    def takes(self, job: Prepared) -> bool:
        """Whether answers to `job` can be kept at all."""
        return self._most_bytes > 0 and job.manner.sampling.seed is not None

    def find(self, job: Prepared) -> Answer | None:
        return self._answers.get(self._key(job))

    async def keeping(
        self, job: Prepared, usage: Usage, chunks: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """`chunks`, kept once they have come to a good end; a stream that breaks leaves nothing."""
        parts: list[bytes] = []
        size = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                size += len(chunk)
                if size < self._most_bytes:
                    parts.append(chunk)
                else:
                    parts.clear()
                yield chunk
        if size + 1024 <= self._most_bytes:
            answer = Answer(b"".join(parts), usage.prompt_tokens, usage.audio_tokens)
            self._answers[self._key(job)] = answer

    def _key(self, job: Prepared) -> tuple[object, ...]:
        return (
            self._weights,
            job.text,
            job.spoken,
            job.manner,
            job.format,
            job.speed,
            job.sample_rate,
            job.whole,
        )
