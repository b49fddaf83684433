from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.deploy.control_plane import ControlPlane
from tests.support.hub import TOKEN
from tests.support.live import ROOT, clean_environment, free_port

LLM_SCRIPT, AGENT_SCRIPT = "orpheus.deploy.llm_app", "orpheus.deploy.speech_to_speech"
KEY = "our-key"
EMBEDDED = {"ORPHEUS_MODEL": "embedded", "ORPHEUS_CODEC_DEVICE": "cpu", "ORPHEUS_GPU_LAYERS": "-1"}


def run(plane: ControlPlane, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python command as a user runs it, with this control plane for Modal."""
    given = clean_environment(**{**plane.environment, "TERM": "dumb", "COLUMNS": "400", **environment})
    return subprocess.run(
        [sys.executable, *command], env=given, capture_output=True, text=True, timeout=120, check=False
    )


def modal_deploy(plane: ControlPlane, what: str, **environment: str) -> None:
    """`what` is a script of the repository, or a module."""
    named = [str(ROOT / what)] if what.endswith(".py") else ["-m", what]
    done = run(plane, "-m", "modal", "deploy", *named, **environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def deployed() -> Iterator[ControlPlane]:
    """Both tiers, deployed by `modal deploy` with the embedded voice; for reading and running."""
    port = str(free_port())  # of tier 1, which a test starts here
    with ControlPlane().serving() as plane:
        for script in ("orpheus_llama_modal.py", "orpheus_fastapi_modal.py"):
            modal_deploy(plane, script, ORPHEUS_LLAMA_PORT=port, HF_TOKEN=TOKEN, **EMBEDDED)
        yield plane


def port_before_a_free_one() -> int:
    """Of two free ports side by side the first; not from where the system takes those of connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("0.0.0.0", port))
            second.bind(("0.0.0.0", port + 1))
            return port


@pytest.fixture(scope="session")
def deployed_agent() -> Iterator[ControlPlane]:
    """The agent and its LLM, deployed by `modal deploy -m` with the embedded voice; for reading and running."""
    port = str(port_before_a_free_one())  # the LLM's is the next one
    with ControlPlane().serving() as plane:
        plane.secrets["voice-auth"]["ORPHEUS_API_KEYS"] = KEY
        for module in (LLM_SCRIPT, AGENT_SCRIPT):
            modal_deploy(plane, module, ORPHEUS_LLAMA_PORT=port, HF_TOKEN=TOKEN, **EMBEDDED)
        yield plane


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A control plane on which nothing is deployed yet."""
    with ControlPlane().serving() as plane:
        yield plane
