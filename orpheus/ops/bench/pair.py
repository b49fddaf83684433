"""Settings → both tiers as processes on free ports, as `orpheus serve` starts them, ended with the body.

Knows nothing of what is asked of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from orpheus import weights
from orpheus.errors import OrpheusError
from orpheus.http.process import listen
from orpheus.settings import Settings

START_S = 600.0  # a load of gigabytes from a slow disk
STOP_S = 20.0


@contextmanager
def running_pair(settings: Settings, streams: int) -> Iterator[tuple[str, str]]:
    """The URLs of tier 2 and tier 1, once both are ready; with room for at least `streams` listeners.

    The environment is this process's. OrpheusError, with what they said, where they do not start.
    """
    port, llama_port = _free_port(), _free_port()
    command = [sys.executable, "-m", "orpheus", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--llama-port", str(llama_port)]
    command += ["--model", weights.model_name(settings), "--codec", weights.codec_name(settings)]
    environment = {
        **os.environ,
        "ORPHEUS_STREAMS": str(max(streams, settings.streams or 0)),
        "ORPHEUS_LOG_LEVEL": "warning",
    }
    url, llama_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{llama_port}"
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while not _ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise OrpheusError(f"The pair did not start. It said: {log.read()[-1000:].strip()}")
                time.sleep(0.1)
            yield url, llama_url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    bound = listen("127.0.0.1", 0, "a port")
    with bound:
        return int(bound.getsockname()[1])
