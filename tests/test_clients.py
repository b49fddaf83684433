"""Each client runs as it is, against the live pair."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import ROOT, Pair, clean_environment, free_port
from tests.test_encode import decode

CLIENTS = ROOT / "clients"
COMMANDS = {
    "curl.sh": ["bash", str(CLIENTS / "curl.sh")],
    "openai_sdk.py": [sys.executable, str(CLIENTS / "openai_sdk.py")],
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


def test_every_file_in_the_folder_is_run_here() -> None:
    assert {p.name for p in CLIENTS.iterdir() if p.is_file()} == set(COMMANDS)


@pytest.mark.parametrize("client", COMMANDS)
def test_it_speaks_a_text_into_a_file(client: str, pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "said.wav"
    done = run(client, pair.url, *arguments(client, "It's \"so\" <sigh> easy, isn't it?", "tara", out))
    assert done.returncode == 0, done.stderr
    assert len(decode(out.read_bytes())[0]) > 12_000
    assert "said.wav" in done.stdout


@pytest.mark.parametrize("client", COMMANDS)
def test_an_error_is_told_and_is_an_exit_code(client: str, pair: Pair, tmp_path: Path) -> None:
    done = run(client, pair.url, *arguments(client, "Hello.", "bob", tmp_path / "x.wav"))
    assert done.returncode != 0
    assert "no voice 'bob'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("client", COMMANDS)
def test_a_server_that_is_not_there_is_told(client: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run(client, url, *arguments(client, "Hello.", "tara", tmp_path / "x.wav"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
