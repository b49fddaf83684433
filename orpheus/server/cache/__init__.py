"""Finished responses to requests with a seed, kept for those who ask for the same again.

responses.py  which requests, and under what key      entry.py  a response as bytes with a checksum
guard.py      bounds what a store can cost            memory.py, disk.py, redis.py  the stores
"""

from orpheus.server.cache.entry import CachedResponse
from orpheus.server.cache.responses import ResponseCache, key_of, open_cache

__all__ = ["CachedResponse", "ResponseCache", "key_of", "open_cache"]
