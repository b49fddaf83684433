from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.live import clean_environment

LOSES_ITS_GPU = """
import asyncio
import torch
from orpheus.codec import service
from orpheus.codec.service import Codec
from orpheus.deploy import speech

loaded = []
load = Codec.load
Codec.load = lambda *given: loaded.append(load(*given)) or loaded[0]
speech.start()

def advance(*given):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

service.advance = advance

async def ask():
    stream = loaded[0].open(seed=1)
    try:
        await stream.decode([0] * 28)
        await stream.finish()
    except Exception as error:
        print(error, flush=True)
    await asyncio.sleep(60)

asyncio.run(ask())
"""


@pytest.mark.slow
def test_the_container_ends_with_its_codec_once_those_who_wait_have_been_told() -> None:
    """A GPU that failed answers nothing more in this process, whoever asks."""
    given = clean_environment(ORPHEUS_CODEC="embedded", ORPHEUS_LLAMA_ENDPOINT="http://127.0.0.1:9")
    ended = subprocess.run(
        [sys.executable, "-c", LOSES_ITS_GPU],
        env=given,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Decoding failed: AcceleratorError" in ended.stdout
    assert "restart the server; the container goes with it" in ended.stderr
