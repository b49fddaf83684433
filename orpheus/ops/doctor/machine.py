"""Checks of this machine: Python, llama.cpp and a compiler, packages, ports, memory, a GPU, access to the hub."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from orpheus import weights
from orpheus.errors import SetupError, WeightsError
from orpheus.http.process import free_port, url_of
from orpheus.hub import commit_of, is_kept
from orpheus.ops import build
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.settings import EMBEDDED, Settings

if TYPE_CHECKING:
    from orpheus.gpu import Gpu

DISTRIBUTION = "orpheus-tts-pair"
TIERS = ("llama", "speech")  # the extras that one machine with both tiers needs
CHECKOUT = Path(__file__).parents[3]  # a wheel has neither pyproject.toml nor the lock
EXACT = "llama-cpp-python"  # its ctypes structures move with every release
PIN = re.compile(r"[\w.-]+==([\w.]+)")
EXTRA = re.compile(r"extra == [\"'](\w+)")
GIB = 1 << 30
ROOM = 1.3  # of a model's size: weights, cache and what else a tier holds
PUBLISHED_BYTES = 4 * GIB  # Orpheus-3B at Q8_0 and its codec


def python() -> Iterator[Finding]:
    here = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.maxsize < 1 << 32:
        yield failed(f"{here} is a 32-bit Python: install a 64-bit one.")
    else:
        yield passed(here)


def compiler() -> Iterator[Finding]:
    """llama.cpp loads, and what would build it again is there."""
    loads = "import llama_cpp; print(llama_cpp.llama_supports_gpu_offload())"
    done = _run([sys.executable, "-P", "-c", loads], 50)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield failed(f"llama.cpp does not load: {reason[:200]}. Build it here: {_rebuild()}")
    else:
        yield passed(f"llama.cpp loads, built {'for a GPU' if 'True' in done.stdout else 'without a GPU'}")
    wanted = {"cmake": ("cmake",), "a C++ compiler": ("c++", "g++", "clang++")}
    missing = [name for name, found in wanted.items() if not any(map(shutil.which, found))]
    if missing:
        build = f"{' and '.join(missing)} not found: install it to build llama.cpp"
        yield (failed if done.returncode else warning)(f"{build}{'' if done.returncode else ' again'}.")


def packages() -> Iterator[Finding]:
    """What both tiers need is installed, in the versions that were tested."""
    required = _requirements()
    pins = _pins(_lock()) | _pins(required)
    names = [_name(line) for line in required]
    wrong = 0
    for name in names:
        pin = pins.get(name)
        wanted = f"{name}=={pin}" if pin else name
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield failed(f"{name} is not installed: pip install {wanted}")
            wrong += 1
            continue
        if pin and found.split("+")[0] != pin:  # torch's "+cpu" is the same release
            report = failed if name == EXACT else warning
            yield report(f"{name} is {found}, tested with {pin}: pip install {wanted}")
            wrong += 1
    if not wrong:
        yield passed(f"{len(names)} installed, {sum(name in pins for name in names)} of them pinned")


def ports(settings: Settings) -> Iterator[Finding]:
    """Both are free, or Orpheus already listens on them."""
    tiers = [("tier 2", settings.host, settings.port, "codec", "ORPHEUS_PORT")]
    if not settings.llama_endpoint:
        tiers.append(("tier 1", "127.0.0.1", settings.llama_port, "streams", "ORPHEUS_LLAMA_PORT"))
    for tier, host, port, mark, setting in tiers:
        try:
            free_port(host, port, setting)
        except SetupError as error:
            if port and mark in health(url_of(host, port)):
                yield passed(f"{host}:{port} has a running {tier}")
            else:
                yield failed(f"{tier}: {error}")
        else:
            yield passed(f"{host}:{port} is free for {tier}")


def health(url: str) -> dict[str, object]:
    """What a tier reports at /health; empty if nothing of that kind answers."""
    try:
        body = httpx.get(f"{url}/health", timeout=3, trust_env=False).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def memory(settings: Settings) -> Iterator[Finding]:
    """RAM and GPU against the model's size."""
    name = weights.model_name(settings)
    size = _size_of(settings)
    free = _free_bytes()
    from orpheus.gpu import find_gpu  # loads llama.cpp, which an earlier check may have found broken

    gpu = find_gpu() if settings.gpu_layers else None
    if free is None:
        yield passed(f"the model takes {size / GIB:.1f} GiB; this system does not report what is free")
    elif free < size * ROOM and gpu is None:
        yield failed(
            f"{free / GIB:.1f} GiB free, and {name} takes about {size * ROOM / GIB:.1f}: close other programs, or "
            f"set ORPHEUS_MODEL to a smaller quantisation or to '{EMBEDDED}'."
        )
    else:
        yield passed(f"{free / GIB:.1f} GiB free, the model takes {size / GIB:.1f}")
    if settings.gpu_layers:
        yield from _gpu(size, gpu)
    else:
        yield passed("no GPU is used, as ORPHEUS_GPU_LAYERS=0 asks")


def _gpu(size: int, gpu: Gpu | None) -> Iterator[Finding]:
    """The GPU that tier 1 uses, whether it is fast and large enough, and whether the codec is on one too."""
    if gpu is None:
        yield _unused(build.find("auto", build.Machine()))
    elif gpu.free_bytes < size * ROOM:
        yield failed(f"{gpu}: the model takes {size * ROOM / GIB:.1f}; free it, or lower ORPHEUS_GPU_LAYERS.")
    elif not gpu.keeps_up:
        yield warning(f"{gpu} is not expected to speak Orpheus-3B in real time: `orpheus bench` measures it")
    else:
        yield passed(f"{gpu}, {gpu.backend}")
    if gpu is not None and gpu.backend == "cuda":
        import torch

        if not torch.cuda.is_available():
            yield warning(
                "llama.cpp uses the GPU and torch does not, so the codec runs on the CPU: install a CUDA build of "
                "torch, or update the driver."
            )


def _unused(plan: build.Plan) -> Finding:
    """Why tier 1 uses no GPU: there is none, it cannot be used, or llama.cpp was compiled without it."""
    if plan.backend == "cpu":
        return warning(plan.note) if plan.note else passed("no GPU: everything runs on the CPU")
    if plan.backend == "custom":
        return passed("no GPU is used by llama.cpp, which is compiled as CMAKE_ARGS says")
    if (CHECKOUT / "Makefile").is_file():
        again = f"make serve GPU={plan.backend}"
    elif plan.cuda_packages:
        again = "make serve in a checkout brings NVIDIA's compiler as a package"
    else:
        again = _rebuild(shlex.join(plan.cmake_args))
    return warning(f"a GPU is here and not used, as llama.cpp was compiled without {plan.backend}: {again}")


def _rebuild(cmake_args: str = "") -> str:
    """The command that builds llama.cpp again, in the version that is pinned."""
    pin = _pins(_requirements())[EXACT]
    before = f"CMAKE_ARGS={shlex.quote(cmake_args)} " if cmake_args else ""
    return (
        f"{before}{sys.executable} -m pip install --force-reinstall --no-deps --no-cache-dir "
        f"--no-binary {EXACT} {EXACT}=={pin}"
    )


def hub(settings: Settings) -> Iterator[Finding]:
    """The repositories that the settings name, if any, can be reached."""
    named = {"ORPHEUS_MODEL": weights.model_name(settings), "ORPHEUS_CODEC": weights.codec_name(settings)}
    repositories = {
        setting: found for setting, name in named.items() if (found := weights.repository_of(name))
    }
    if not repositories:
        yield passed("not needed: the weights are on this machine")
    for setting, repository in repositories.items():
        try:
            commit = commit_of(repository, settings, setting)
        except WeightsError as error:
            if is_kept(repository):
                yield warning(f"{error} Until then the copy that is kept here is used.")
            else:
                yield failed(str(error))
        else:
            yield passed(f"{named[setting]} can be fetched, at commit {commit[:12]}")


def _requirements() -> list[str]:
    """The dependencies of both tiers, as the checkout's pyproject.toml or the installed package lists them."""
    project = CHECKOUT / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = (table["optional-dependencies"][tier] for tier in TIERS)
        return [*table["dependencies"], *itertools.chain.from_iterable(extras)]
    listed = importlib.metadata.requires(DISTRIBUTION) or []
    return [line for line in listed if not (extra := EXTRA.search(line)) or extra[1] in TIERS]


def _lock() -> list[str]:
    path = CHECKOUT / "constraints.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _pins(lines: list[str]) -> dict[str, str]:
    """Name → version, of the lines that name one exactly."""
    return {_name(line): match[1] for line in lines if (match := PIN.match(line))}


def _name(line: str) -> str:
    match = re.match(r"[\w.-]+", line)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else line


def _size_of(settings: Settings) -> int:
    """Bytes of the model: of a file or of the one in a folder, else those of the published one."""
    if weights.repository_of(weights.model_name(settings)) is None:
        with contextlib.suppress(WeightsError):  # the check that fetches tells it
            return weights.find_model(settings).stat().st_size
    return PUBLISHED_BYTES


def _free_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
