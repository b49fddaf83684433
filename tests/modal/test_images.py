from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orpheus.deploy import images
from orpheus.errors import SetupError
from tests.live import ROOT, clean_environment

DIRECT = {
    re.split(r"[=<>\[ ]", line)[0]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
}

# Imports of another tier's packages fail, as they do in its image; and modal's own must not be needed to serve.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""
MODULES = {
    "huggingface_hub": "huggingface_hub",
    "pydantic-settings": "pydantic_settings",
    "prometheus-client": "prometheus_client",
    "llama-cpp-python": "llama_cpp",
}


def test_each_tier_has_what_it_needs_and_both_together_all() -> None:
    llama, speech = set(images.LLAMA_PACKAGES), set(images.SPEECH_PACKAGES)
    assert llama | speech == DIRECT
    assert speech == DIRECT - {"llama-cpp-python"}


@pytest.mark.parametrize(
    ("packages", "imports"),
    [
        (
            images.LLAMA_PACKAGES,
            "orpheus.cli, orpheus.run, orpheus.llama.server, orpheus.llama.loop, orpheus.deploy.llama",
        ),
        (
            images.SPEECH_PACKAGES,
            "orpheus.cli, orpheus.speech.app, orpheus.codec, orpheus.encode, orpheus.deploy.speech",
        ),
    ],
)
def test_a_tier_imports_nothing_that_its_image_has_not(packages: tuple[str, ...], imports: str) -> None:
    missing = {MODULES.get(name, name) for name in DIRECT - set(packages)}
    _python(BLOCK.format(blocked=missing) + f"import {imports}")


@pytest.mark.parametrize("script", ["orpheus_llama_modal", "orpheus_fastapi_modal", "deploy_orpheus_modal"])
@pytest.mark.parametrize(
    "blocked", [set(), {"torch", "snac", "llama_cpp", "av", "fastapi", "uvicorn", "sentencex"}]
)
def test_a_script_imports_with_and_without_the_packages_of_a_gpu(script: str, blocked: set[str]) -> None:
    _python(BLOCK.format(blocked=blocked) + f"import {script}")


def test_a_package_without_a_pin_is_named() -> None:
    with pytest.raises(SetupError, match="no version of left-pad"):
        images.pinned(("torch", "left-pad"))


def test_a_tree_without_the_pins_says_where_to_deploy_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "ROOT", tmp_path)
    with pytest.raises(SetupError, match="deploy from the repository"):
        images.pinned(("torch",))


def _python(source: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", source], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
