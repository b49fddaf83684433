"""`modal run` of both scripts: what their local entry points do with a tier that is up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from orpheus.deploy.settings import LLAMA_APP, SPEECH_APP
from tests.deploy.conftest import EMBEDDED, run
from tests.deploy.container import ContainerPlane
from tests.support.live import ROOT, Pair


def modal_run(plane: ContainerPlane, *words: str) -> subprocess.CompletedProcess[str]:
    script, *options = words
    return run([sys.executable, "-m", "modal", "run", str(ROOT / script), *options], plane, **EMBEDDED)


def test_tier_1_is_asked_for_one_frame(plane: ContainerPlane, pair: Pair) -> None:
    plane.urls = {LLAMA_APP: pair.llama_url}
    done = modal_run(plane, "orpheus_llama_modal.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"cold: one frame after \d", done.stdout)
    assert re.search(r"warm: one frame after \d", done.stdout)


def test_tier_2_speaks_into_a_file_cold_and_warm(plane: ContainerPlane, pair: Pair, tmp_path: Path) -> None:
    plane.urls = {SPEECH_APP: pair.url}
    text = "The boat drifted slowly down the river."
    done = modal_run(plane, "orpheus_fastapi_modal.py", "--text", text, "--out", "river.wav")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"cold: first audio after \d", done.stdout)
    assert re.search(r"warm: first audio after \d", done.stdout)
    assert (tmp_path / "river.wav").stat().st_size > 24_000
    assert plane.unknown == []
