from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.container import ContainerPlane
from tests.support.live import ROOT, clean_environment, free_port

EMBEDDED = {"ORPHEUS_MODEL": "embedded", "ORPHEUS_CODEC_DEVICE": "cpu", "ORPHEUS_CODEC_NOISE": "off"}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def new_plane() -> ContainerPlane:
    return ContainerPlane(voice_auth=["ORPHEUS_PROXY_KEY", "ORPHEUS_PROXY_SECRET"])


def run(command: list[str], plane: ContainerPlane, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a user runs it, with this control plane for Modal."""
    given = clean_environment(**{**plane.environment, "TERM": "dumb", "COLUMNS": "400", **environment})
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False)


def modal_deploy(plane: ContainerPlane, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "modal", "deploy", str(ROOT / script)], plane, **environment)


@pytest.fixture(scope="session")
def deployed() -> Iterator[ContainerPlane]:
    """Both tiers, deployed by `modal deploy` with the embedded voice; for reading and running."""
    port = str(free_port())  # of tier 1, which a test starts here
    with new_plane() as plane:
        for script in ("orpheus_llama_modal.py", "orpheus_fastapi_modal.py"):
            done = modal_deploy(plane, script, ORPHEUS_LLAMA_PORT=port, **EMBEDDED)
            assert done.returncode == 0, done.stdout + done.stderr
        yield plane


@pytest.fixture
def plane() -> Iterator[ContainerPlane]:
    """A control plane on which nothing is deployed yet."""
    with new_plane() as plane:
        yield plane


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the files of a container are put."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder
