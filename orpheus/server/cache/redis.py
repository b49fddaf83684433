"""Entries in Redis or Valkey, shared by all machines that speak. Its own limit holds: maxmemory with allkeys-lru."""

from __future__ import annotations

import logging

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from orpheus import redaction
from orpheus.errors import SetupError

PREFIX = "orpheus:speech:"
KEPT_S = 30 * 86_400  # so that the entries of a model that is gone go too
LIMIT_S = 3.0  # for any one answer, so that no connection waits for ever

log = logging.getLogger(__name__)


class RedisStore:
    max_body_bytes = 512 << 20  # Redis' own limit

    def __init__(self, url: str) -> None:
        """Connects when it is first used. SetupError if redis-py cannot use the address."""
        self.name = redaction.address(url)
        try:
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=LIMIT_S,
                socket_connect_timeout=LIMIT_S,
                # A connection that was kept may be dead. The guard does the waiting.
                retry=Retry(NoBackoff(), 1),
            )
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # opens none, and knows which options there are
        except (ValueError, TypeError, RedisError) as error:
            raise SetupError(
                f"ORPHEUS_CACHE={self.name} cannot be used ({redaction.redacted(str(error))}): write "
                "redis://HOST:6379/0, or rediss:// for TLS."
            ) from error
        self._checked = False

    async def get(self, key: str) -> bytes | None:
        entry = await self._client.get(PREFIX + key)
        return entry if isinstance(entry, bytes) else None

    async def put(self, key: str, entry: bytes) -> None:
        await self._client.set(PREFIX + key, entry, ex=KEPT_S)
        if not self._checked:
            self._checked = True
            await self._check_bound()

    async def remove(self, key: str) -> None:
        await self._client.delete(PREFIX + key)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _check_bound(self) -> None:
        """Tell, once, of a Redis that would grow until its machine has no memory left."""
        try:
            memory = await self._client.info("memory")
        except ResponseError:  # not allowed to this user
            return
        if not memory.get("maxmemory") or memory.get("maxmemory_policy") == "noeviction":
            log.warning(
                "the cache at %s has no bound that makes room: set maxmemory and maxmemory-policy allkeys-lru there",
                self.name,
            )
