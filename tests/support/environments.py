"""Environments of their own for programs that tests run beside us: clients whose requirements conflict with ours.

Each is made once, in a folder outside the checkout, and used again as long as its versions are the same. Where a package
index cannot be reached, the test is skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEWEST = "2026-11-30"  # what they depend on is not newer, so that a test finds what it was written with
INSTALL_S = 300.0  # the longest wait
_UNREACHABLE = re.compile(
    r"dns error|error sending request|failed to fetch|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ECONNRESET",
    re.IGNORECASE,
)


def python_with(*requirements: str) -> Path:
    """The interpreter of an environment with these pinned packages."""

    def make(folder: Path) -> None:
        uv = (sys.executable, "-m", "uv")
        _run(*uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
        into = ("--python", str(folder / "venv"), "--exclude-newer", NEWEST)
        _run(*uv, "pip", "install", "--quiet", *into, *requirements)

    return _environment(f"python{sys.version_info.minor}", requirements, make) / "venv" / "bin" / "python"


def node_with(*packages: str) -> Path:
    """A folder with these pinned packages in its `node_modules`."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install nodejs npm")

    def make(folder: Path) -> None:
        (folder / "package.json").write_text("{}")
        quietly = ("--no-fund", "--no-audit", "--ignore-scripts", "--loglevel=error")
        _run("npm", "install", *quietly, f"--before={NEWEST}", *packages, cwd=folder)

    return _environment("node", packages, make)


def _environment(kind: str, packages: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orpheus-tests"
    key = hashlib.sha256("\n".join((NEWEST, *packages)).encode()).hexdigest()[:16]
    folder = cache / f"{kind}-{key}"
    with _locked(cache, folder.name):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "complete").touch()
    return folder


@contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    """Against other processes of the same test run."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode:
        if reason := next(filter(_UNREACHABLE.search, done.stderr.splitlines()), None):
            pytest.skip(f"the package index cannot be reached: {reason.strip()[:200]}")
        pytest.fail(f"{' '.join(command)}\n{done.stderr[-2000:]}")
