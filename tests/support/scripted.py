"""A WebSocket server that does as it is told, and what a TTS server of the orchestrator's protocol would say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
from websockets.asyncio.server import ServerConnection, serve

SAMPLE_RATE = 24_000
FRAME_S = 0.08
Script = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script, **options: Any) -> AsyncIterator[str]:
    """The address of a server that runs `script` for each connection."""
    async with serve(script, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def tell(socket: ServerConnection, type_: str, **fields: Any) -> None:
    await socket.send(msgpack.packb({"type": type_, **fields}, use_single_float=True))


async def audio(socket: ServerConnection, seconds: float, samples: int = 1920) -> None:
    """That much sound, at once."""
    left = int(seconds * SAMPLE_RATE)
    while left > 0:
        await tell(socket, "Audio", pcm=[0.25] * min(samples, left))
        left -= samples


async def words_until_eos(socket: ServerConnection) -> list[str]:
    heard = []
    async for data in socket:
        message = msgpack.unpackb(data)
        if message["type"] == "Eos":
            break
        heard.append(message["text"])
    return heard


async def until(true: Callable[[], bool], within_s: float = 2) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def until_still(count: Callable[[], int]) -> None:
    """Until nothing was added for half a second."""
    before = -1
    while count() != before:
        before = count()
        await asyncio.sleep(0.5)
