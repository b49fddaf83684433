"""Entries in this process' memory, the least recently used out first."""

from __future__ import annotations

from cachetools import LRUCache

ENTRY_BYTES = 1024  # what an entry takes beside its bytes


class MemoryStore:
    name = "memory"

    def __init__(self, max_bytes: int) -> None:
        self.max_body_bytes = max_bytes - 2 * ENTRY_BYTES
        self._entries: LRUCache[str, bytes] = LRUCache(
            max_bytes, getsizeof=lambda entry: len(entry) + ENTRY_BYTES
        )

    async def get(self, key: str) -> bytes | None:
        return self._entries.get(key)

    async def put(self, key: str, entry: bytes) -> None:
        self._entries[key] = entry

    async def remove(self, key: str) -> None:
        self._entries.pop(key, None)

    async def aclose(self) -> None:
        self._entries.clear()
