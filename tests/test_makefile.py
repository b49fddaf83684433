"""The Makefile where what it needs is missing, and with what people pass to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.live import ROOT

HAS_IT = "#!/bin/sh\n"


def make(*words: str, path: Path | None = None, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program
    # The tests may run under make, whose variables are not those of this one.
    given = {name: value for name, value in os.environ.items() if name != "CMAKE_ARGS" and "MAKE" not in name}
    if path:
        given |= {"PATH": str(path), "CXX": ""}
    return subprocess.run(
        [program, "-C", str(folder), *words],
        env=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(path: Path, text: str = HAS_IT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "text",
    ['She said "no".', "`false` $(false)", "It's 5 o'clock; exit 1", "It costs $5, $$HOME.", "-v", "a\\b"],
)
def test_any_text_can_be_spoken(text: str, tmp_path: Path) -> None:
    program(tmp_path / "orpheus", '#!/bin/sh\nfor last; do :; done; printf %s "$last"\n')
    done = make("-s", "--no-print-directory", "-o", "install", "say", f"BIN={tmp_path}", f"TEXT={text}")
    assert (done.stdout, done.returncode) == (text, 0), done.stderr


def test_an_environment_that_could_not_be_created_is_not_used_the_next_time(tmp_path: Path) -> None:
    """As Debian's Python without python3-venv does it: a folder with a python in it, and no pip."""
    environment = tmp_path / "venv"
    half = program(
        tmp_path / "python",
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nmkdir -p $3/bin; touch $3/bin/python; exit 1\n',
    )
    for _ in range(2):
        done = make(f"{environment}/bin/python", f"VENV={environment}", f"PYTHON={half}")
        assert done.returncode
        assert "apt-get install python3-venv" in done.stdout
        assert not environment.exists()


@pytest.mark.parametrize("there", [["c++"], ["cmake"], []])
def test_missing_build_tools_are_reported_first(there: list[str], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    for name in there:
        program(tools / name)
    for name in ("sh", "mkdir"):
        found = shutil.which(name)
        assert found
        tools.mkdir(exist_ok=True)
        (tools / name).symlink_to(found)
    done = make(
        f"{tmp_path}/venv/bin/python", f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}", path=tools
    )
    assert done.returncode
    assert "apt-get install cmake g++" in done.stdout
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment whose pip writes down what it is asked for, and makes a wheel of nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program(
        tmp_path / "venv/bin/python",
        f"""#!/bin/sh
case "$*" in
*orpheus.ops.build*) exec {sys.executable} "$@" ;;
-c*) echo "" ;;
*) echo "asked: $* with $CMAKE_ARGS" ;;
esac
while [ $# -gt 0 ]; do [ "$1" = --wheel-dir ] && echo x > "$2/llama_cpp_python-1-py3-none-any.whl"; shift; done
""",
    )
    return tmp_path / "venv"


def installed(environment: Path, *words: str) -> list[str]:
    """What pip was asked for."""
    tools = environment.parent / "tools"
    done = make(f"{environment}/installed", f"VENV={environment}", *words, path=tools)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("asked: ")]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with an NVIDIA GPU and its compiler on it, and little else."""
    tools = tmp_path / "tools"
    program(tools / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 8.9, 580.1'\n")
    program(tools / "nvcc", "#!/bin/sh\necho compute_89\n")
    for name in ("sh", "touch"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    return tools


def test_both_tiers_are_installed_for_the_gpu_that_is_there(environment: Path, tools: Path) -> None:
    torch, wheel, _, rest = installed(environment)
    assert "whl/cpu" not in torch
    assert "-DGGML_CUDA=ON" in wheel
    assert f"-DCMAKE_CUDA_COMPILER={tools}/nvcc" in wheel
    assert "llama_cpp_lean.cmake" in wheel
    assert ".[llama,speech]" in rest


def test_a_gpu_can_be_left_unused_and_stays_so_until_it_is_asked_for(environment: Path, tools: Path) -> None:
    torch, wheel, *_ = installed(environment, "GPU=off")
    assert "whl/cpu" in torch
    assert "-DCMAKE_UNITY_BUILD=ON" in wheel
    assert installed(environment) == []
    assert "-DGGML_CUDA=ON" in "".join(installed(environment, "GPU=auto"))


def test_what_is_installed_is_not_installed_again_and_what_is_compiled_not_compiled_again(
    environment: Path, tools: Path
) -> None:
    assert [len(installed(environment, gpu)) for gpu in ("GPU=cuda", "GPU=cuda", "GPU=off", "GPU=cuda")] == [
        4,
        0,
        4,
        3,
    ]


def test_a_build_for_a_gpu_that_failed_is_tried_again_when_it_is_asked_for_and_only_then(
    environment: Path, tools: Path
) -> None:
    pip = environment / "bin/python"
    whole = pip.read_text()
    pip.write_text(whole.replace("#!/bin/sh\n", '#!/bin/sh\ncase "$CMAKE_ARGS" in *CUDA*) exit 1 ;; esac\n'))
    for words, tried in (((), True), ((), False), (("GPU=cuda",), True), (("GPU=cuda",), True), ((), False)):
        assert bool(installed(environment, *words)) == tried
    pip.write_text(whole)
    assert "-DGGML_CUDA=ON" in "".join(installed(environment, "GPU=cuda"))
    assert installed(environment, "GPU=cuda") == []


def test_an_environment_of_a_python_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    stale = program(environment / "lib/python3.1/site-packages/torch.py")
    (environment / "bin").mkdir()
    (environment / "bin/python").symlink_to(tmp_path / "gone")
    python = program(
        tmp_path / "python",
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nmkdir -p $3/bin; touch $3/bin/python\n',
    )
    done = make(f"{environment}/bin/python", f"VENV={environment}", f"PYTHON={python}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (environment / "bin/python").is_file()
    assert not stale.exists()


def test_a_compiler_that_comes_later_is_found_by_the_next_make(environment: Path, tools: Path) -> None:
    (tools / "nvidia-smi").rename(tools / "later")
    assert "GGML_CUDA" not in "".join(installed(environment))
    (tools / "later").rename(tools / "nvidia-smi")
    assert "-DGGML_CUDA=ON" in "".join(installed(environment))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A clean repository, one version after the first release."""
    files = {
        "Makefile": (ROOT / "Makefile").read_text(),
        "CHANGELOG.md": "# Changelog\n\n## 0.2.0, 2026-12-01\n\n## 0.3.0, unreleased\n",
        "orpheus/__init__.py": '"""Speech."""\n\n__version__ = "0.1.0"\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for words in (
        ["init", "--quiet"],
        ["config", "user.name", "A Developer"],
        ["config", "user.email", "developer@example.org"],
        ["config", "commit.gpgsign", "false"],
        ["config", "tag.gpgsign", "false"],
        ["add", "."],
        ["commit", "--quiet", "--message", "Start"],
    ):
        git(tmp_path, *words)
    return tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return make("release", *words, folder=folder)


def test_a_release_sets_commits_and_tags_the_version(repository: Path) -> None:
    done = release(repository, "VERSION=0.2.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert git(repository, "show", "v0.2.0:orpheus/__init__.py").endswith('__version__ = "0.2.0"\n')
    assert git(repository, "tag") == "v0.2.0\n"
    assert git(repository, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "make release VERSION=1.2.3"),
        (["VERSION=0.2"], "make release VERSION=1.2.3"),
        (["VERSION=0.3.0"], "CHANGELOG.md needs a heading"),  # unreleased
        (["VERSION=0.4.0"], "CHANGELOG.md needs a heading"),
    ],
)
def test_a_version_that_cannot_be_released_is_refused(
    words: list[str], reason: str, repository: Path
) -> None:
    done = release(repository, *words)
    assert done.returncode
    assert reason in done.stdout
    assert git(repository, "tag") == ""


def test_nothing_is_released_over_uncommitted_changes(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("## 0.2.0, 2026-12-01\n")
    done = release(repository, "VERSION=0.2.0")
    assert done.returncode
    assert "commit or stash" in done.stdout
    assert git(repository, "tag") == ""


def test_help_lists_every_target() -> None:
    phony = (ROOT / "Makefile").read_text().split(".PHONY:")[1].split("\n\n")[0].replace("\\", "")
    done = make("help")
    assert set(phony.split()) == {line.split()[1] for line in done.stdout.splitlines() if "  make " in line}


def test_talking_installs_the_agent_and_only_once(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    log = tmp_path / "log"
    for name in ("python", "orpheus"):
        program(environment / "bin" / name, f'#!/bin/sh\necho {name} "$@" >> {log}\n')
    for _ in range(2):
        done = make("-s", "-o", f"{environment}/installed", "talk", f"VENV={environment}", "ARGS=--port 1")
        assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert [line for line in lines if ".[agent]" in line] == lines[:1]
    assert lines[1:] == ["orpheus talk --port 1"] * 2
