"""Every client as a program, against the running pair."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from orpheus.ops.relay import create_app
from tests.support.audio import decode
from tests.support.live import ROOT, Pair, clean_environment, free_port, served
from tests.support.unmute import Orchestrator, at_pace

CLIENTS = ROOT / "clients"
COMMANDS = {
    "curl.sh": ["bash", str(CLIENTS / "curl.sh")],
    "openai_sdk.py": [sys.executable, str(CLIENTS / "openai_sdk.py")],
    "unmute_tts.py": [sys.executable, str(CLIENTS / "unmute_tts.py")],
    "websocket_stream.py": [sys.executable, str(CLIENTS / "websocket_stream.py")],
}


def run(client: str, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMANDS[client], *arguments],
        env=clean_environment(ORPHEUS_FASTAPI_URL=url, no_proxy="*"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def arguments(client: str, text: str, voice: str, out: Path) -> list[str]:
    if client == "curl.sh":
        return [text, voice, str(out)]
    return [text, "--voice", voice, "--out", str(out)]


def test_every_client_is_tested_here() -> None:
    assert {p.name for p in CLIENTS.iterdir() if p.is_file()} == {*COMMANDS, "realtime.py"}, (
        "and test_realtime.py"
    )


@pytest.mark.parametrize("client", COMMANDS)
def test_it_writes_speech_to_a_file(client: str, pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "said.wav"
    done = run(client, pair.url, *arguments(client, "It's \"so\" <sigh> easy, isn't it?", "tara", out))
    assert done.returncode == 0, done.stderr
    heard = decode(out.read_bytes())[0]
    assert len(heard) > 12_000
    assert np.abs(heard).max() > 0.05
    assert "said.wav" in done.stdout


# unmute's protocol has no error for an unknown voice: the default one speaks.
@pytest.mark.parametrize("client", sorted(set(COMMANDS) - {"unmute_tts.py"}))
def test_an_error_is_printed_and_sets_the_exit_code(client: str, pair: Pair, tmp_path: Path) -> None:
    done = run(client, pair.url, *arguments(client, "Hello.", "bob", tmp_path / "x.wav"))
    assert done.returncode != 0
    assert "no voice 'bob'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("client", COMMANDS)
def test_a_server_that_cannot_be_reached_is_an_error(client: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run(client, url, *arguments(client, "Hello.", "tara", tmp_path / "x.wav"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.parametrize("client", ["curl.sh", "openai_sdk.py"])
def test_a_response_that_breaks_off_is_an_error_and_leaves_no_file(client: str, tmp_path: Path) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"RIFF" * 100
        raise ConnectionResetError

    async def answer(request: Request) -> StreamingResponse:
        return StreamingResponse(half(), media_type="audio/wav")

    out = tmp_path / "x.wav"
    with served(Starlette(routes=[Route("/v1/audio/speech", answer, methods=["POST"])])) as url:
        done = run(client, url, *arguments(client, "Hello.", "tara", out))
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_voice_of_unmute_maps_to_one_of_ours(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "said.wav"
    voice = "unmute-prod-website/p329_022.wav"
    text = "Well, hello there. The boat drifted slowly down the river, and nobody was in a hurry."
    done = run("unmute_tts.py", pair.url, *arguments("unmute_tts.py", text, voice, out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{text}\n"), "the words come back as they were sent"
    heard = decode(out.read_bytes())[0]
    assert len(heard) > 12_000
    assert np.abs(heard).max() > 0.05


@pytest.mark.parametrize("client", ["openai_sdk.py", "unmute_tts.py", "websocket_stream.py"])
def test_a_file_that_cannot_be_written_is_an_error(client: str, pair: Pair, tmp_path: Path) -> None:
    done = run(client, pair.url, *arguments(client, "Hello.", "tara", tmp_path / "no" / "x.wav"))
    assert done.returncode == 1
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_standard_input_is_spoken_as_it_is_written(pair: Pair, tmp_path: Path) -> None:
    """The first words come back before the last are written."""
    command = [*COMMANDS["websocket_stream.py"], "--words", "--out", str(tmp_path / "said.wav")]
    process = subprocess.Popen(
        command,
        env=clean_environment(ORPHEUS_FASTAPI_URL=pair.url, no_proxy="*"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("The café is open. It will close at nine. ".encode())
        process.stdin.flush()
        heard = b""
        while b"open." not in heard:
            heard += process.stdout.read1(100)
            assert heard, "the program ended"
        process.stdin.write(b"So hurry.")
        process.stdin.close()
        heard += process.stdout.read()
    assert process.returncode == 0
    assert heard.decode().startswith("The café is open. It will close at nine. So hurry.")
    assert len(decode((tmp_path / "said.wav").read_bytes())[0]) > 24_000


def test_the_relay_connects_unmute_to_the_pair(pair: Pair) -> None:
    app = create_app(pair.url, {}, connect_s=5)
    with served(app) as url:
        turn = asyncio.run(
            Orchestrator(url.replace("http", "ws", 1)).turn(at_pace(["Well,", "hello", "there."]))
        )
    assert turn.words == ["Well,", "hello", "there."]
    assert (turn.close_code, turn.player.underruns) == (1000, 0)
