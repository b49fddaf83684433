"""The pages name what there is, and docs/deploy.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orpheus.deploy import errors
from orpheus.deploy.prices import PRICED, hourly_usd
from orpheus.deploy.settings import COLD_WAIT_S, Deployment, llama_sizes, load_deployment, speech_sizes
from orpheus.settings import Settings, setting_name
from tests.support.live import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text()
# Read by compose and by clients, not by the services.
OTHERS = {"ORPHEUS_PUBLISH", "ORPHEUS_API_KEY"}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_it_names_is_one(page: Path) -> None:
    known = {setting_name(field) for kind in (Settings, Deployment) for field in kind.model_fields}
    named = set(re.findall(r"ORPHEUS_[A-Z_]*[A-Z]", page.read_text()))
    assert named - known - OTHERS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for name in re.findall(r"\]\(([^)#h][^)]*)\)", page.read_text()):
        assert (page.parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_it_names_is_one(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_and_command_it_names_is_in_the_reference(page: Path) -> None:
    text, reference = page.read_text(), (ROOT / "docs" / "reference.md").read_text()
    metrics = re.findall(r"`(orpheus_(?!fastapi|llama_modal)[a-z_]+)`", text)
    commands = re.findall(r"`(?:\.venv/bin/)?(orpheus [a-z]+)", text)
    for name in {*metrics, *commands}:
        assert f"`{name}`" in reference or f"`{name} " in reference, name


def test_its_prices_are_those_that_a_dry_run_prints() -> None:
    deployment = load_deployment()
    llama, speech = (
        hourly_usd(gpu, deployment.cores, deployment.memory_gib, None)
        for gpu in (deployment.gpu_llama, deployment.gpu_speech)
    )
    pause = (llama + speech) * deployment.scaledown_s / 3600
    for amount in (llama, speech, llama + speech, pause):
        assert f"${amount:.2f}" in PAGE
    assert f"${round((llama + speech) * 720, -1):,.0f} a month" in PAGE
    assert PRICED in PAGE
    assert f"${llama + speech:.2f} an hour together" in (ROOT / "README.md").read_text()


def test_its_sizes_are_those_of_the_settings() -> None:
    deployment = load_deployment()
    llama, speech = llama_sizes(deployment), speech_sizes(deployment)
    assert f"32 streams, 8 waiting; another starts from {llama.target}" in PAGE
    assert f"64 utterances; another starts from {speech.target}" in PAGE
    assert f"`ORPHEUS_COLD_WAIT_S` ({COLD_WAIT_S:g}" in PAGE
    assert f"`ORPHEUS_CALL_TIMEOUT_S` ({deployment.call_timeout_s})" in PAGE
    assert f"`ORPHEUS_TARGET_LOAD` ({deployment.target_load})" in PAGE


def test_every_exit_code_is_told_and_is_of_one_failure() -> None:
    codes = [kind.exit_code for kind in errors.DeployError.__subclasses__()]
    assert len(set(codes)) == len(codes) == 8
    listed = PAGE.split("exit code of its")[1].split("\n\n")[0]
    assert set(re.findall(r"\b(\d\d?) ", listed)) == {"2", *map(str, codes)}
