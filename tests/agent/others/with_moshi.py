"""A conversation by Moshi's own program, `moshi.client`, on a machine without a sound card.   with_moshi.py URL SOUND

SOUND is 16-bit samples at 24 kHz, which go into the microphone. Ends when the answer was heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import io
import json
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

RATE, LOUD = 24_000, 0.01
ANSWER_S = 0.3  # of sound, which is enough of one


class Devices:
    """`sounddevice`, whose two streams call back for every block, in a thread each."""

    def __init__(self, speech: bytes) -> None:
        self.module: Any = types.ModuleType("sounddevice")
        self.module.InputStream = lambda **options: Stream(self._hear, **options)
        self.module.OutputStream = lambda **options: Stream(self._play, **options)
        self.blocks = 0  # played
        self.loud_s = 0.0
        self._speech = np.frombuffer(speech, "<i2").astype(np.float32) / 32768

    def _hear(self, callback: Any, size: int) -> None:
        piece, self._speech = self._speech[:size], self._speech[size:]
        callback(np.pad(piece, (0, size - len(piece)))[:, None], size, None, None)

    def _play(self, callback: Any, size: int) -> None:
        block = np.empty((size, 1), np.float32)
        callback(block, size, None, None)
        self.blocks += 1
        self.loud_s += float(np.count_nonzero(np.abs(block) > LOUD)) / RATE


class Stream:
    def __init__(self, step: Any, *, samplerate: int, channels: int, blocksize: int, callback: Any) -> None:
        self._step, self._callback, self._size = step, callback, blocksize
        self._period_s = blocksize / samplerate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stop.is_set():
            self._step(self._callback, self._size)
            due_s += self._period_s
            self._stop.wait(max(0.0, due_s - time.monotonic()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


async def main(url: str, speech: bytes) -> None:
    found = importlib.util.find_spec("moshi")
    assert found is not None
    package = types.ModuleType("moshi")  # whose own __init__ imports torch and the model
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules["moshi"] = package
    devices = Devices(speech)
    sys.modules["sounddevice"] = devices.module
    client = importlib.import_module("moshi.client")
    out, problems = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        printer = client.RawPrinter(out, problems)
        running = asyncio.create_task(client.run(printer, types.SimpleNamespace(url=url)))
        while devices.loud_s < ANSWER_S or not out.getvalue().endswith("."):  # noqa: ASYNC110 - threads
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    lags = problems.getvalue().count("[LAG]")
    report = {"said": out.getvalue(), "blocks": devices.blocks, "lags": lags, "problems": problems.getvalue()}
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
