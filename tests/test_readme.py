"""The README's commands run, the files of its tree exist, and it stays short."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np

from tests.support.live import ROOT, Pair, clean_environment, readme_blocks

README = (ROOT / "README.md").read_text()
SHELL = [line for block in readme_blocks("sh") for line in block.replace("\\\n", " ").strip().splitlines()]
MOST_WORDS = 1500  # tables counted, fenced blocks not


def test_it_is_short() -> None:
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= MOST_WORDS


def test_the_make_commands_are_targets() -> None:
    named = {match for line in SHELL for match in re.findall(r"make (\w+)", line)}
    assert {"serve", "test", "say", "talk"} <= named
    for target in named:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_make_runs_the_commands_that_the_tests_ran() -> None:
    for target, command in (
        ("serve", "orpheus serve"),
        ("talk", "orpheus talk"),
        ("say", "orpheus say"),
        ("bench", "orpheus bench"),
    ):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        assert f".venv/bin/{command}" in done.stdout


def test_the_curl_command_speaks(pair: Pair, tmp_path: Path) -> None:
    (line,) = [line for line in SHELL if line.startswith("curl")]
    command = [*shlex.split(line.replace("http://127.0.0.1:5005", pair.url)), "--noproxy", "*", "-s"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "hello.mp3").stat().st_size > 4000


def test_the_python_snippet_speaks(pair: Pair, tmp_path: Path) -> None:
    (snippet,) = readme_blocks("python")
    subprocess.run(
        [sys.executable, "-c", snippet.replace("http://127.0.0.1:5005", pair.url)],
        cwd=tmp_path,
        env=clean_environment(no_proxy="*"),
        check=True,
        timeout=60,
    )
    with wave.open(str(tmp_path / "hello.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    # Whatever the seed: the shortest of 150 was 0.5 s, as the embedded voice ends early now and then.
    assert len(samples) > 0.25 * 24_000
    assert np.abs(samples).max() > 0.05 * 32_768


def test_every_file_of_the_tree_exists() -> None:
    (tree,) = [block for block in README.split("```")[1::2] if block.startswith("\norpheus/\n")]
    lines = tree.strip().splitlines()
    assert len(lines) > 10
    for line in lines:
        names = re.match(r"(\s*)((?:[\w./]+ )*[\w./]+)", line)
        assert names
        folder = ROOT / "orpheus" if names[1] else ROOT
        for name in names[2].split():
            assert (folder / name).exists(), name
