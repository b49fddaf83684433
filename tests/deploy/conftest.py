from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.deploy.control_plane import ControlPlane
from tests.support.hub import TOKEN
from tests.support.live import ROOT, clean_environment, free_port

EMBEDDED = {"ORPHEUS_MODEL": "embedded", "ORPHEUS_CODEC_DEVICE": "cpu", "ORPHEUS_GPU_LAYERS": "-1"}


def run(plane: ControlPlane, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python command as a user runs it, with this control plane for Modal."""
    given = clean_environment(**{**plane.environment, "TERM": "dumb", "COLUMNS": "400", **environment})
    return subprocess.run(
        [sys.executable, *command], env=given, capture_output=True, text=True, timeout=120, check=False
    )


def modal_deploy(plane: ControlPlane, script: str, **environment: str) -> None:
    done = run(plane, "-m", "modal", "deploy", str(ROOT / script), **environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def deployed() -> Iterator[ControlPlane]:
    """Both tiers, deployed by `modal deploy` with the embedded voice; for reading and running."""
    port = str(free_port())  # of tier 1, which a test starts here
    with ControlPlane().serving() as plane:
        for script in ("orpheus_llama_modal.py", "orpheus_fastapi_modal.py"):
            modal_deploy(plane, script, ORPHEUS_LLAMA_PORT=port, HF_TOKEN=TOKEN, **EMBEDDED)
        yield plane


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A control plane on which nothing is deployed yet."""
    with ControlPlane().serving() as plane:
        yield plane
