from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orpheus.deploy import images
from orpheus.errors import SetupError
from tests.support.live import ROOT, clean_environment, free_port

DIRECT = {
    re.split(r"[=<>\[ ]", line)[0]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
}

LIGHT = {"httpx", "numpy", "pydantic-settings", "rich", "typer"}  # all that a deploy needs beside modal
MODULES = {
    "llama-cpp-python": "llama_cpp",
    "prometheus-client": "prometheus_client",
    "pydantic-settings": "pydantic_settings",
}
# Read by every Python that starts with it on its path: these modules are not installed, for it and its children.
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_each_tier_has_what_it_needs_and_both_together_all() -> None:
    llama, speech = set(images.LLAMA_PACKAGES), set(images.SPEECH_PACKAGES)
    brought = {"pydantic", "starlette"}  # by fastapi
    assert (llama | speech) - brought == DIRECT
    assert speech - brought == DIRECT - {"llama-cpp-python"}


def test_tier_1_serves_with_what_its_image_has(tmp_path: Path) -> None:
    source = (
        "from orpheus.deploy.llama import LlamaProcess\n"
        "process = LlamaProcess()\nprocess.start(60)\nprocess.stop()\n"
    )
    given = {"ORPHEUS_MODEL": "embedded", "ORPHEUS_LLAMA_PORT": str(free_port())}
    _python(source, DIRECT - set(images.LLAMA_PACKAGES), tmp_path, **given)


def test_tier_2_starts_with_what_its_image_has(tmp_path: Path) -> None:
    source = "from orpheus.deploy import speech\nspeech.load_modules()\nspeech.start()\n"
    given = {
        "ORPHEUS_CODEC": "embedded",
        "ORPHEUS_CODEC_DEVICE": "cpu",
        "ORPHEUS_LLAMA_ENDPOINT": "http://127.0.0.1:9",
    }
    _python(source, DIRECT - set(images.SPEECH_PACKAGES), tmp_path, **given)


@pytest.mark.parametrize("blocked", [set(), DIRECT - LIGHT], ids=["with", "without"])
def test_the_scripts_import_with_and_without_the_packages_of_a_gpu(blocked: set[str], tmp_path: Path) -> None:
    _python("import orpheus_llama_modal, orpheus_fastapi_modal, deploy_orpheus_modal", blocked, tmp_path)


def test_make_deploy_installs_what_a_deploy_needs() -> None:
    done = subprocess.run(
        ["make", "-n", "-B", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (install,) = re.findall(r"-c constraints.txt\s+(?:\\\s+)?(.*)", done.stdout)
    assert set(install.split()) == LIGHT | {"modal"}


def test_a_package_without_a_pin_is_named() -> None:
    with pytest.raises(SetupError, match="no version of left-pad"):
        images.pinned(["torch", "left-pad"])


def test_a_tree_without_the_pins_says_where_to_deploy_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "ROOT", tmp_path)
    with pytest.raises(SetupError, match="deploy from the repository"):
        images.pinned(["torch"])


def _python(source: str, missing: set[str], folder: Path, **environment: str) -> None:
    """Run `source` where the `missing` packages are not installed."""
    modules = {MODULES.get(name, name) for name in missing}
    (folder / "sitecustomize.py").write_text(WITHOUT.format(missing=modules))
    given = clean_environment(**environment)
    given["PYTHONPATH"] = f"{folder}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", source], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
