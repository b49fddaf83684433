"""What the pages name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orpheus import weights
from orpheus.deploy import errors
from orpheus.deploy.settings import Deployment
from orpheus.ops import build
from orpheus.server.schema import SpeechRequest
from orpheus.settings import Settings, setting_name
from orpheus.voices import TAGS, VOICES
from tests.support.live import ROOT, clean_environment

DOCS = ROOT / "docs"
# The changelog is apart: it names what is gone.
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(DOCS.glob("*.md")),
    ROOT / "benchmarks" / "LOG.md",
    ROOT / "training" / "README.md",
    ROOT / "orpheus" / "embedded" / "MODEL_CARD.md",
]
COMPOSE = {"ORPHEUS_PUBLISH"}  # read by docker compose, not by the services


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def flowing(page: Path) -> str:
    """Its text on one line, so that a line break hides no sentence."""
    return " ".join(page.read_text().split())


USE = flowing(DOCS / "use.md")


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def known_settings() -> dict[str, object]:
    """Names and defaults."""
    fields = {**Settings.model_fields, **Deployment.model_fields}
    return {setting_name(name): field.default for name, field in fields.items()}


@every_page
def test_every_setting_it_names_is_one(page: Path) -> None:
    named = set(re.findall(r"ORPHEUS_[A-Z_]*[A-Z]", page.read_text()))
    assert named - known_settings().keys() - COMPOSE == set()


@every_page
def test_every_default_it_gives_is_that_of_the_setting(page: Path) -> None:
    for name, value in re.findall(r"`(ORPHEUS_\w+)` \((\d[\d.]*)\)", page.read_text()):
        assert known_settings()[name] in (float(value), None), name


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)h][^)]*)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not heading or heading in _anchors(file), target


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_make_target_it_names_is_one(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets


@every_page
def test_every_metric_and_command_it_names_is_in_the_reference(page: Path) -> None:
    text, reference = page.read_text(), (DOCS / "reference.md").read_text()
    metrics = re.findall(r"`(orpheus_(?!fastapi|llama_modal)[a-z_]+)`", text)
    commands = re.findall(r"`(?:\.venv/bin/)?(orpheus [a-z]+)", text)
    for name in {*metrics, *commands}:
        assert f"`{name}`" in reference or f"`{name} " in reference, name


@every_page
def test_every_file_it_names_exists(page: Path) -> None:
    for name in re.findall(r"`([\w./]+\.(?:py|js))`", page.read_text()):
        if not name.startswith("unmute/") and "NAME" not in name:
            assert any((base / name).exists() for base in (ROOT, ROOT / "orpheus", page.parent)), name


@every_page
def test_every_module_it_runs_exists(page: Path) -> None:
    for name in re.findall(r"python -m ([\w.]+)", page.read_text()):
        path = ROOT.joinpath(*name.rstrip(".").split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_llama_cpp_and_its_converter_are_the_ones_that_are_pinned() -> None:
    voices = (DOCS / "voices.md").read_text()
    for name in (weights.CONVERTER, build.pinned(), build.pinned().replace("-", "_").replace("==", "-")):
        assert name in voices
    versions = re.findall(r"llama[-_]cpp[-_]python(?:==|-)([\d.]+\d)", voices)
    assert {f"{build.PROJECT}=={version}" for version in versions} == {build.pinned()}


def test_the_settings_command_runs() -> None:
    (line,) = re.findall(r"^\.venv/bin/(orpheus settings)$", (DOCS / "tune.md").read_text(), re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", *line.split()],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ORPHEUS_MODEL" in done.stdout


def test_every_field_of_a_speech_request_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", USE))
    assert SpeechRequest.model_fields.keys() <= described


def test_every_voice_and_tag_is_listed() -> None:
    assert all(voice.id in USE and voice.ascii in USE for voice in VOICES.values())
    assert all(f"`<{tag}>`" in USE for tags in TAGS.values() for tag in tags)


def test_every_exit_code_is_listed_and_stands_for_one_failure() -> None:
    codes = [kind.exit_code for kind in errors.DeployError.__subclasses__()]
    assert len(set(codes)) == len(codes) == 8
    table = (DOCS / "deploy.md").read_text().split("| exit code |")[1].split("\n\n")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["2", *map(str, sorted(codes))]
