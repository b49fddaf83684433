from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orpheus.deploy.llama import LlamaProcess, one_frame
from orpheus.errors import NotReady
from orpheus.ops.child import ChildEnded
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import VOICES
from tests.support.live import clean_environment, free_port, served
from tests.support.upstream import Upstream, event, frame_text


@pytest.mark.anyio
async def test_less_than_a_frame_is_a_failure() -> None:
    upstream = Upstream()
    upstream.events = [event(frame_text()[:20]), event(reason="stop")]
    with served(upstream.app) as url, pytest.raises(NotReady, match="made 1 tokens where a frame has 7"):
        await one_frame(load_settings(llama_endpoint=url, model="embedded"))
    assert upstream.requests[0]["max_tokens"] == 7


def test_a_child_that_ends_while_it_starts_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03\x00\x00\x00 and no more")
    process = LlamaProcess(load_settings(model=str(bad), llama_port=free_port()))
    with pytest.raises(ChildEnded, match="exit code 2"):
        process.start(60)


def test_a_start_that_takes_too_long_is_abandoned_and_leaves_nothing_behind() -> None:
    process = LlamaProcess(load_settings(model="embedded", llama_port=free_port()))
    with pytest.raises(NotReady, match=r"Tier 1 was not ready within 0\.3 s"):
        process.start(0.3)
    assert process._server is not None
    assert process._server.exit_code is not None


@pytest.mark.anyio
async def test_stopping_lets_a_running_stream_finish() -> None:
    settings = load_settings(model="embedded", llama_port=free_port(), drain_s=20)
    process = LlamaProcess(settings)
    await asyncio.to_thread(process.start, 60)
    source = HttpTokenSource(settings)
    text = "The boat drifted slowly down the river. " * 6
    stream = source.generate(Generation(VOICES["tara"], text, Sampling(seed=1), max_tokens=1400))
    numbers = len((await anext(stream)).numbers)
    stopping = asyncio.create_task(asyncio.to_thread(process.stop))
    rest = [chunk async for chunk in stream]
    assert rest[-1].finish_reason is not None
    assert sum(len(chunk.numbers) for chunk in rest) > 10 * numbers  # it had only begun
    await stopping
    with pytest.raises(NotReady, match="cannot be reached"):
        await source.check()
    await source.aclose()


def test_the_container_ends_with_its_tier_1() -> None:
    """llama.cpp can abort while it serves, and the kernel can kill it."""
    source = (
        "from orpheus.deploy.llama import LlamaProcess\nimport time\n"
        "tier1 = LlamaProcess()\ntier1.start(60)\nprint(tier1._server.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    given = clean_environment(ORPHEUS_MODEL="embedded", ORPHEUS_LLAMA_PORT=str(free_port()))
    container = subprocess.Popen(
        [sys.executable, "-c", source], env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert container.stdout
    pid = int(container.stdout.readline())
    subprocess.run(["kill", f"-{signal.SIGKILL}", str(pid)], check=True)
    _, log = container.communicate(timeout=20)
    assert container.returncode == 1
    assert "the container goes with it" in log
