"""Which responses are kept, under what key, and how they get into a store and out of it.

Speech is sampled: without a seed two responses differ, and none is kept. With one, the key holds all that decides the
bytes: the segments of the text, the parameters, the model, the codec and this software.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from orpheus.cache_address import parse_cache
from orpheus.server.cache.entry import CachedResponse, pack, unpack
from orpheus.server.cache.guard import READ_S, WRITE_S, Guard, Store
from orpheus.server.cache.memory import MemoryStore
from orpheus.server.metrics import SpeechMetrics
from orpheus.text import Segment
from orpheus.tts.params import SpeechParams
from orpheus.tts.usage import Usage

MAX_BODY_BYTES = 4_000_000  # of a response that is kept: 80 s of PCM at 24 kHz, four minutes of MP3
MAX_WRITING_BYTES = 32_000_000  # on their way to a slow store; more are not kept
CLOSING_S = 1.0  # for what is on its way when the server stops


def open_cache(given: str | None, metrics: SpeechMetrics) -> ResponseCache:
    """What ORPHEUS_CACHE asks for. SetupError if there can be none."""
    if not given:
        return ResponseCache(None, metrics)
    software()  # now, as it reads files
    return ResponseCache(_open_store(given), metrics)


def _open_store(given: str) -> Store:
    address = parse_cache(given)
    if address.kind == "memory":
        return MemoryStore(address.max_bytes)
    if address.kind == "file":
        from orpheus.server.cache.disk import DiskStore

        return DiskStore(address.folder, address.max_bytes)
    from orpheus.server.cache.redis import RedisStore

    return RedisStore(address.url)


class ResponseCache:
    """Finished responses in a store. Used from one event loop; nothing of it fails a request."""

    def __init__(self, store: Store | None, metrics: SpeechMetrics) -> None:
        self._store = store
        self._max_body_bytes = min(MAX_BODY_BYTES, store.max_body_bytes) if store else 0
        self._metrics = metrics
        self._writing: dict[str, CachedResponse] = {}  # a repeat may come before it is stored
        self._tasks: set[asyncio.Task[None]] = set()
        if store is not None:
            errors = metrics.cache_errors
            self._reading = Guard(store, "read", READ_S, errors.labels("read").inc)
            self._keeping = Guard(store, "write", WRITE_S, errors.labels("write").inc)

    def accepts(self, params: SpeechParams) -> bool:
        """Whether responses with these parameters can be kept at all."""
        return self._store is not None and params.sampling.seed is not None

    async def find(self, key: str) -> CachedResponse | None:
        """The response kept under a key of `key_of`; one that is damaged is removed."""
        if (found := self._writing.get(key)) is None:
            found = await self._reading.run(lambda: self._read(key))
        self._metrics.cache.labels("miss" if found is None else "hit").inc()
        if found is not None:
            self._metrics.cache_bytes.labels("read").inc(len(found.body))
        return found

    async def keep(
        self, key: str, usage: Usage, playout_rate: float, chunks: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """Pass `chunks` through and keep them once they end well; a stream that breaks leaves nothing."""
        parts: list[bytes] = []
        size = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                size += len(chunk)
                if size <= self._max_body_bytes:
                    parts.append(chunk)
                else:
                    parts.clear()
                yield chunk
        if size <= self._max_body_bytes:
            starts = tuple(usage.segments_s(playout_rate))
            self._begin_writing(
                key, CachedResponse(b"".join(parts), usage.prompt_tokens, usage.audio_tokens, starts)
            )

    async def written(self, within_s: float | None = None) -> None:
        """Wait until what is on its way to the store has arrived, or cannot."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)

    async def aclose(self) -> None:
        """Finish what is on its way, for a moment, and close the store."""
        await self.written(CLOSING_S)
        if self._store is not None:
            with suppress(Exception):  # the server ends either way
                async with asyncio.timeout(CLOSING_S):
                    await self._store.aclose()

    async def _read(self, key: str) -> CachedResponse | None:
        assert self._store is not None
        entry = await self._store.get(key)
        if entry is None:
            return None
        # In a thread, as a checksum takes a millisecond per megabyte.
        response = await asyncio.to_thread(unpack, key, entry)
        if response is None:
            self._metrics.cache_errors.labels("damaged").inc()
            await self._store.remove(key)
        return response

    def _begin_writing(self, key: str, response: CachedResponse) -> None:
        if sum(len(each.body) for each in self._writing.values()) + len(response.body) > MAX_WRITING_BYTES:
            self._metrics.cache_errors.labels("write").inc()
            return
        self._writing[key] = response
        task = asyncio.create_task(self._keeping.run(lambda: self._write(key, response)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._writing.pop(key, None))

    async def _write(self, key: str, response: CachedResponse) -> None:
        assert self._store is not None
        await self._store.put(key, await asyncio.to_thread(pack, key, response))
        self._metrics.cache_bytes.labels("write").inc(len(response.body))


def key_of(segments: Sequence[Segment], params: SpeechParams, made_by: dict[str, Any]) -> str:
    """A hash of all that decides the bytes, from which no text can be read. `made_by`: what speaks and encodes."""
    told = {
        "segments": [(segment.text, segment.pause_ms, segment.ends_sentence) for segment in segments],
        "params": asdict(params),
        "made_by": made_by,
        "software": software(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@cache
def software() -> str:
    """A hash of what turns tokens into bytes: our source, and FFmpeg. Two releases share no entries."""
    import av

    import orpheus

    digest = hashlib.sha256(av.__version__.encode())
    folder = Path(orpheus.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
