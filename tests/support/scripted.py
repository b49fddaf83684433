"""A scripted WebSocket server, and the messages of a server that speaks unmute's protocol."""

from __future__ import annotations

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
    """The URL of a server that runs `script` for each connection."""
    async with serve(script, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def tell(socket: ServerConnection, type_: str, **fields: Any) -> None:
    await socket.send(msgpack.packb({"type": type_, **fields}, use_single_float=True))


async def audio(socket: ServerConnection, seconds: float, samples: int = 1920) -> None:
    """Send `seconds` of audio at once, `samples` per message."""
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
