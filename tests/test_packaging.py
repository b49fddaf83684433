"""pyproject.toml, the lock and what is installed agree."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orpheus.errors import SetupError
from tests.support.live import ROOT, clean_environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOCK = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def installed(lines: list[str]) -> set[str]:
    """The packages that these requirements name and bring, as far as they are installed."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            if name == PROJECT["name"]:
                brought = EXTRAS.get(extra, PROJECT["dependencies"])
            else:
                try:
                    brought = importlib.metadata.requires(name) or []
                except importlib.metadata.PackageNotFoundError:
                    continue
                found.add(name)
            waiting += [
                needed
                for needed in map(Requirement, brought)
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            ]
    return found


def test_every_direct_dependency_is_locked() -> None:
    locked = {requirement.name for requirement in LOCK}
    lines = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    direct = {canonicalize_name(Requirement(line).name) for line in lines}
    assert direct - locked == {PROJECT["name"]}


def test_a_tier_has_one_version_of_each_package() -> None:
    """On every platform: what Docker, Modal and `orpheus doctor` take the tested version to be."""
    tiers = installed([f"{PROJECT['name']}[llama,speech]"])
    assert len(tiers) > 40
    for name in tiers:
        assert len([requirement for requirement in LOCK if requirement.name == name]) == 1, name


def test_what_is_installed_is_what_is_locked() -> None:
    versions = {
        requirement.name: requirement.specifier
        for requirement in LOCK
        if requirement.marker is None or requirement.marker.evaluate()
    }
    for name in installed([f"{PROJECT['name']}[{','.join(EXTRAS)}]"]):
        version = importlib.metadata.version(name)
        assert name in versions, f"{name} is not locked: make lock"
        assert versions[name].contains(version), f"{name} {version} is installed, locked is {versions[name]}"


def test_a_machine_with_only_the_shared_packages_learns_what_to_install() -> None:
    source = "import sys\nsys.modules['av'] = None\nfrom orpheus.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", source, "say", "Hello."],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == SetupError.exit_code
    assert done.stderr.startswith("orpheus: av is not installed: pip install 'orpheus-tts-pair[speech]'")
    assert "needs [llama,speech]" in done.stderr
