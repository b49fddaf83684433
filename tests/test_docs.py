"""What the pages name exists, and their figures are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orpheus.deploy import command, errors
from orpheus.deploy.prices import PRICED
from orpheus.deploy.settings import COLD_WAIT_S, Deployment
from orpheus.llama.batches import SPARE
from orpheus.llama.engine_config import engine_config
from orpheus.server.schema import SpeechRequest
from orpheus.settings import Settings, load_settings, setting_name
from orpheus.text.tags import TAGS
from orpheus.voices import VOICES
from tests.support.live import ROOT, clean_environment

DOCS = ROOT / "docs"
# The changelog is apart: it names what is gone.
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    ROOT / "benchmarks" / "LOG.md",
    ROOT / "training" / "README.md",
    ROOT / "orpheus" / "embedded" / "MODEL_CARD.md",
]
COMPOSE = {"ORPHEUS_PUBLISH"}  # read by docker compose, not by the services
KV_KIB = 112  # of one token of Orpheus-3B: 28 layers, 8 heads of 128 for keys and for values, 2 bytes


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def flowing(page: Path) -> str:
    """Its text on one line, so that a line break hides no sentence."""
    return " ".join(page.read_text().split())


DEPLOY = flowing(DOCS / "deploy.md")
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


def test_the_memory_it_promises_is_that_of_the_caches() -> None:
    operate, tune = flowing(DOCS / "operate.md"), flowing(DOCS / "tune.md")
    settings = load_settings()
    cpu, gpu = (engine_config(settings, gpu=has_one) for has_one in (False, True))
    caches_gib = (gpu.streams + SPARE) * gpu.context_tokens * KV_KIB / 2**20
    assert f"{caches_gib:.1f} GiB at {gpu.streams} streams" in operate
    for page in (operate, tune):
        assert f"`ORPHEUS_STREAMS` ({cpu.streams}, or {gpu.streams} with a GPU)" in page
        assert f"`ORPHEUS_CONTEXT_TOKENS` ({gpu.context_tokens})" in page


@pytest.fixture
def dry_run() -> str:
    """What `make deploy ARGS="--dry-run"` prints."""
    done = CliRunner().invoke(command.app, ["--dry-run"])
    assert done.exit_code == 0
    return done.output


def _printed(dry_run: str, pattern: str) -> str:
    found = re.search(pattern, dry_run)
    assert found, pattern
    return found[1]


def test_the_prices_are_those_that_a_dry_run_prints(dry_run: str) -> None:
    for line in (
        r"one orpheus-llama-cpp: ([\d.]+)",
        r"one orpheus-fastapi-tts: ([\d.]+)",
        r"single request: ([\d.]+)",
    ):
        assert f"${_printed(dry_run, line)}" in DEPLOY
    busy, containers = re.findall(r"busy: ([\d.]+) \((\d+) containers", dry_run)[0]
    hour = float(busy) / int(containers)
    assert f"${hour:.2f} together" in DEPLOY
    assert f"${round(hour * 720, -1):,.0f} a month" in DEPLOY
    assert f"${hour:.2f} an hour together" in flowing(ROOT / "README.md")
    assert PRICED in DEPLOY
    assert PRICED in dry_run


def test_the_sizes_are_those_that_a_dry_run_prints(dry_run: str) -> None:
    tier1 = engine_config(load_settings(), gpu=True)
    from1 = int(_printed(dry_run, r"orpheus-llama-cpp .* another from (\d+)"))
    from2 = int(_printed(dry_run, r"orpheus-fastapi-tts .* another from (\d+)"))
    assert f"{tier1.streams} streams, {tier1.waiting} waiting; another starts from {from1}" in DEPLOY
    assert f"{load_settings().max_requests} utterances; another starts from {from2}" in DEPLOY
    assert f"{from1 / tier1.streams:.0%} of a container's capacity" in DEPLOY
    idle_minutes = _printed(dry_run, r"gone after (\d+) idle minutes")
    assert f"{idle_minutes} minutes" in DEPLOY
    for tier, gpu in (("llama-cpp", "L40S"), ("fastapi-tts", "L4")):
        assert _printed(dry_run, rf"orpheus-{tier} +{gpu}, (\d+ cores, \d+ GiB)") in DEPLOY


def test_the_time_limits_are_those_of_the_containers() -> None:
    from orpheus.deploy.settings import CALL_TIMEOUT_S, DRAIN_S, EXIT_GRACE_S, STARTUP_TIMEOUT_S

    assert f"waits up to {COLD_WAIT_S:g} s" in DEPLOY
    assert f"A WebSocket is one call and ends after {CALL_TIMEOUT_S} s" in DEPLOY
    assert f"start, at most {STARTUP_TIMEOUT_S} s" in DEPLOY
    assert f"streams get {DRAIN_S} s to end, the container {EXIT_GRACE_S} s to exit" in DEPLOY


def test_every_exit_code_is_listed_and_stands_for_one_failure() -> None:
    codes = [kind.exit_code for kind in errors.DeployError.__subclasses__()]
    assert len(set(codes)) == len(codes) == 8
    table = (DOCS / "deploy.md").read_text().split("| exit code |")[1].split("\n\n")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["2", *map(str, sorted(codes))]
