"""Small engines and servers for the tests of tier 1. Nothing here needs a network or a GPU."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from orpheus import embedded
from orpheus.llama.engine import Completion, Engine, Stream
from orpheus.llama.engine_config import EngineConfig
from orpheus.sampling import Sampling
from orpheus.settings import Settings

TEXT = "<|audio|>tara: The boat drifted slowly down the river.<|eot_id|>"


def settings(**options: Any) -> Settings:
    defaults: dict[str, Any] = {"streams": 4, "context_tokens": 512, "threads": 1, "gpu_layers": 0}
    return Settings(_env_file=None, **{**defaults, **options})


def load(path: Path = embedded.MODEL, streams: int = 4, **config: Any) -> Engine:
    """An engine of four streams on one thread; `config` changes fields of its EngineConfig."""
    chosen = EngineConfig.from_settings(settings(streams=streams), gpu=False)
    return Engine.open(path, dataclasses.replace(chosen, **config))


@contextmanager
def engine_of(path: Path = embedded.MODEL, **options: Any) -> Iterator[Engine]:
    engine = load(path, **options)
    try:
        yield engine
    finally:
        engine.close()


async def collect(stream: Stream) -> list[int]:
    """All numbers of a stream; its finish reason is checked to be there."""
    numbers: list[int] = []
    reason = None
    async with stream:
        async for chunk in stream:
            numbers += chunk.numbers
            reason = chunk.finish_reason
    assert reason is not None
    return numbers


def completion(engine: Engine, text: str = TEXT, tokens: int = 140, **sampling: Any) -> Completion:
    return Completion(engine.tokenize_prompt(text), tokens, Sampling(**{"seed": 1, **sampling}))


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait for a condition; fails the test after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.002)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The application on a real socket, in a thread. Yields its address once it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The embedded voice, four streams."""
    with engine_of() as loaded:
        yield loaded
