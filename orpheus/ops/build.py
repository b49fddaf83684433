"""How llama.cpp is compiled on this machine, for the GPU that is here or for the processor; `make` runs it.

It runs before anything is installed, so the standard library is all it imports:

    python -m orpheus.ops.build plan GPU STAMP       writes the plan into the file, if it is another than the one there
    python -m orpheus.ops.build install VENV STAMP   installs torch and llama.cpp by it; compiled wheels are kept

GPU is one of GPUS; without one, the last that was asked for counts. What is missing is one sentence with what brings
it, and the processor is used meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GPUS = ("auto", "cuda", "metal", "vulkan", "rocm", "off")
CHECKOUT = Path(__file__).parents[2]
LEAN = CHECKOUT / "cmake" / "llama_cpp_lean.cmake"
PROJECT = "llama-cpp-python"
# For every backend: without libraries that llama-cpp-python does not load.
ALWAYS = ("-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={LEAN}")
# NVIDIA's compiler as packages, in the version of the libraries that torch brings; the CUDA 12 packages of that name
# have no nvcc in them (seen 2026-11-30).
CUDA_PACKAGES = "cuda-toolkit[nvcc,cublas,cccl]"
CUDA_13_DRIVER = 580
CUDA_13_CAPABILITY = 75  # Turing; older cards need CUDA 12
# The CPU build of torch, a tenth of the size, comes from PyTorch's own index, asked once and for torch alone: where
# that cannot be reached, the ordinary index answers without delay.
CPU_TORCH = ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "--retries", "0", "--timeout", "10")
_WAITS = {  # on two cores, about; CUDA and ROCm by the number of files
    "cpu": "about 3 minutes",
    "metal": "about 3 minutes",
    "vulkan": "about 5 minutes",
    "cuda": "10 to 60 minutes",
    "rocm": "10 to 60 minutes",
    "custom": "some minutes",
}
GPU_COMPILER_BYTES = 3 << 29  # 1.5 GiB for each file of CUDA's kernels
OWN_MEMORY_BYTES = 6 << 30  # a card with less could not hold Orpheus-3B
_NVIDIA, _AMD, _INTEL = "0x10de", "0x1002", "0x8086"
_DISPLAY, _ACCELERATOR = "0x03", "0x12"  # PCI classes; AMD's MI300 is of the second, and Intel's NPUs are


@dataclass(frozen=True)
class Machine:
    """What is looked at. Tests put other folders and another system in its place."""

    system: str = platform.system()
    processor: str = platform.machine()
    root: Path = Path("/")
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def program(self, name: str, *elsewhere: str) -> str | None:
        """The program's path: on PATH, or at one of the other paths."""
        found = shutil.which(name, path=self.environment.get("PATH", ""))
        return found or next(
            (str(path) for each in elsewhere if os.access(path := self.at(each), os.X_OK)), None
        )

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def run(self, *command: str) -> str | None:
        """What a program prints; None if it fails, or takes longer than a driver needs to wake up."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=30, check=False, env=self.environment
            )
            return done.stdout if done.returncode == 0 else None
        return None


@dataclass(frozen=True)
class Plan:
    """What llama.cpp is compiled for. `note` is one sentence for the person; the rest decides what is built."""

    backend: str  # cuda, metal, vulkan, rocm, cpu, custom
    cmake_args: tuple[str, ...]
    note: str = ""
    cuda_torch: bool = False  # the codec on the GPU as well
    cuda_packages: bool = False  # nvcc comes as a package
    toolkit: str = ""  # its version: a library for another one's does not load


class _Missing(Exception):
    """A GPU cannot be used: one sentence that says what brings what is missing."""


def find(asked: str, here: Machine) -> Plan:
    """The plan for this machine. Where the GPU cannot be used it is the processor's, and its note says why."""
    own = here.environment.get("CMAKE_ARGS")
    if own:
        return Plan("custom", tuple(shlex.split(own)), "llama.cpp is compiled as CMAKE_ARGS says.")
    try:
        plan = _automatic(here) if asked == "auto" else _FINDERS[asked](here)
    except _Missing as missing:
        return _processor(here, f"{missing} Until then the processor is used.")
    return plan or _processor(here)


def _processor(here: Machine, note: str = "") -> Plan:
    metal = ("-DGGML_METAL=OFF",) if here.system == "Darwin" else ()
    return Plan("cpu", (*metal, "-DCMAKE_UNITY_BUILD=ON"), note)


def _automatic(here: Machine) -> Plan | None:
    """For the first GPU that is worth it; None without one."""
    if here.system == "Darwin":
        return _metal(here) if here.processor == "arm64" else None
    if _nvidia_smi(here) or _cards(here, _NVIDIA):
        return _cuda(here)
    if not _cards(here, _AMD, _INTEL):
        return None
    if not any(card.own_memory for card in _cards(here, _AMD, _INTEL)):
        return _processor(
            here,
            "The GPU here shares the processor's memory, and is no faster for the embedded voice: the processor is "
            "used, and make serve GPU=vulkan tries the GPU.",
        )
    return _rocm(here) if _cards(here, _AMD) and _hipcc(here) else _vulkan(here)


# NVIDIA


@dataclass(frozen=True)
class _NvidiaCard:
    name: str
    capability: int  # 89 is 8.9
    driver: int  # 580


def _nvidia_smi(here: Machine) -> str | None:
    return here.program("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")


def _cuda(here: Machine) -> Plan:
    smi = _nvidia_smi(here)
    if smi is None:
        if _cards(here, _NVIDIA):
            raise _Missing(
                "The NVIDIA card here stays unused, as it has no driver: apt-get install nvidia-driver (on Ubuntu: "
                "ubuntu-drivers install), restart, then make serve."
            )
        raise _Missing(
            "There is no NVIDIA GPU here: nvidia-smi, which comes with the driver, is not found. After "
            "apt-get install nvidia-driver, make serve."
        )
    cards = list(_nvidia_cards(here, smi))
    if not cards and "GPU 0" in (here.run(smi, "--list-gpus") or ""):
        raise _Missing(
            "The NVIDIA GPU here stays unused, as its driver is too old to tell what it can compute: apt-get install a "
            "newer nvidia-driver (on Ubuntu: ubuntu-drivers install), restart, then make serve."
        )
    if not cards:
        raise _Missing(
            f"The NVIDIA GPU here stays unused, as its driver does not answer: run {smi}, do what it says (after an "
            "update of the driver: restart), then make serve."
        )
    architectures = sorted({card.capability for card in cards})
    modern = min(card.driver for card in cards) >= CUDA_13_DRIVER and architectures[0] >= CUDA_13_CAPABILITY
    common = cuda_arguments(architectures)
    name = cards[0].name
    nvcc = _nvcc(here)
    known = _known_architectures(here, nvcc) if nvcc else set()
    if nvcc and known.issuperset(architectures):
        return Plan(
            "cuda",
            (*common, f"-DCMAKE_CUDA_COMPILER={nvcc}"),
            f"llama.cpp is compiled for {name} with {nvcc}.",
            cuda_torch=modern,
            toolkit=here.run(nvcc, "--version") or "",
        )
    if modern and here.system == "Linux" and here.processor in ("x86_64", "aarch64"):
        return Plan(
            "cuda",
            (*common, "-DORPHEUS_PACKAGED_CUDA=ON"),
            f"llama.cpp is compiled for {name} with NVIDIA's compiler, which comes as a package.",
            cuda_torch=True,
            cuda_packages=True,
        )
    if nvcc:
        unknown = next(card for card in cards if card.capability not in known)
        raise _Missing(
            f"{unknown.name} stays unused, as {nvcc} does not compile for its compute capability "
            f"{unknown.capability / 10:.1f}: install another version of the CUDA toolkit, name it with CUDA_HOME, then "
            "make serve."
        )
    raise _Missing(
        f"{name} stays unused, as its compiler is missing, and the one that comes as a package wants a driver of "
        f"{CUDA_13_DRIVER} or newer and a card since Turing: apt-get install nvidia-cuda-toolkit, then make serve."
    )


def cuda_arguments(architectures: Sequence[int]) -> tuple[str, ...]:
    """CMake's arguments for cards of these compute capabilities, 89 for 8.9."""
    listed = ";".join(f"{each}-real" for each in architectures)
    return "-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={listed}"


def _nvidia_cards(here: Machine, smi: str) -> Iterator[_NvidiaCard]:
    listed = here.run(smi, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader") or ""
    for line in listed.splitlines():
        fields = [part.strip() for part in line.split(",")]
        with contextlib.suppress(ValueError):  # "[N/A]", of a driver too old to tell
            name, capability, driver = fields
            yield _NvidiaCard(name, int(capability.replace(".", "")), int(driver.split(".")[0]))


def _nvcc(here: Machine) -> str | None:
    homes = [home for name in ("CUDA_HOME", "CUDA_PATH") if (home := here.environment.get(name))]
    for home in homes:
        if os.access(path := Path(home) / "bin" / "nvcc", os.X_OK):
            return str(path)
    return here.program("nvcc", "/usr/local/cuda/bin/nvcc")


def _known_architectures(here: Machine, nvcc: str) -> set[int]:
    return {int(number) for number in re.findall(r"compute_(\d+)", here.run(nvcc, "--list-gpu-arch") or "")}


# Apple


def _metal(here: Machine) -> Plan:
    if here.system != "Darwin" or here.processor != "arm64":
        raise _Missing(
            "GPU=metal is for a Mac with Apple silicon, and for its own Python: make serve GPU=auto."
        )
    # Not in one unit: CMake joins Objective-C only from 3.29 on.
    return Plan("metal", ("-DGGML_METAL=ON",), "llama.cpp is compiled for Apple's GPU.")


# AMD and Intel


@dataclass(frozen=True)
class _Card:
    vendor: str
    own_memory: bool


def _cards(here: Machine, *vendors: str) -> list[_Card]:
    """The GPUs of these makers on the PCI bus."""
    cards = []
    for device in sorted(here.at("/sys/bus/pci/devices").glob("*")):
        vendor = _text(device / "vendor")
        kinds = (_DISPLAY, _ACCELERATOR) if vendor == _AMD else (_DISPLAY,)
        if vendor not in vendors or not _text(device / "class").startswith(kinds):
            continue
        if vendor == _INTEL:
            own = not device.name.endswith(":00:02.0")  # where its processors have theirs
        else:
            own = int(_text(device / "mem_info_vram_total") or OWN_MEMORY_BYTES) >= OWN_MEMORY_BYTES
        cards.append(_Card(vendor, own))
    return cards


def _check_access(devices: Iterable[Path], asked: str) -> None:
    """_Missing if this user may open none of the devices that there are."""
    closed = [str(path) for path in devices if path.exists()]
    if closed and not any(os.access(path, os.R_OK | os.W_OK) for path in closed):
        raise _Missing(
            f"The GPU stays unused, as you may not use {closed[0]}: sudo usermod -aG render,video $USER, log in again, "
            f"then make serve GPU={asked}."
        )


def _hipcc(here: Machine) -> str | None:
    return here.program("hipcc", "/opt/rocm/bin/hipcc")


def _rocm(here: Machine) -> Plan:
    hipcc = _hipcc(here)
    if hipcc is None:
        raise _Missing(
            "The AMD GPU stays unused, as ROCm's compiler hipcc is missing: apt-get install hipcc libhipblas-dev "
            "librocblas-dev, then make serve GPU=rocm; or make serve GPU=vulkan."
        )
    names = _amd_architectures(here)
    if not names:
        raise _Missing(
            "The AMD GPU stays unused, as its driver does not list it (/sys/class/kfd): modprobe amdgpu, then "
            "make serve GPU=rocm; or make serve GPU=vulkan."
        )
    _check_access([here.at("/dev/kfd")], "rocm")
    config = here.program("hipconfig", "/opt/rocm/bin/hipconfig")
    tools = (here.run(config, "-l") or "").strip() if config else ""
    compiler = (f"-DCMAKE_HIP_COMPILER={tools}/clang++",) if tools else ()
    return Plan(
        "rocm",
        ("-DGGML_HIP=ON", f"-DGPU_TARGETS={';'.join(names)}", *compiler),
        f"llama.cpp is compiled for {', '.join(names)} with {hipcc}.",
        toolkit=here.run(hipcc, "--version") or "",
    )


def _amd_architectures(here: Machine) -> list[str]:
    """gfx1100 for 110000: two digits of decimals each, the last as hexadecimals."""
    names = set()
    for file in here.at("/sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        if (found := re.search(r"^gfx_target_version (\d+)$", _text(file), re.MULTILINE)) and int(found[1]):
            version = int(found[1])
            names.add(f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}")
    return sorted(names)


def _vulkan(here: Machine) -> Plan:
    sdk = here.environment.get("VULKAN_SDK")
    includes = [Path(sdk) / "include"] if sdk else []
    includes += [here.at("/usr/include"), here.at("/usr/local/include")]
    header = next((path for each in includes if (path := each / "vulkan" / "vulkan_core.h").is_file()), None)
    compiler = here.program("glslc", *([f"{sdk}/bin/glslc"] if sdk else []))
    spirv = any((each / "spirv" / "unified1" / "spirv.hpp").is_file() for each in includes)
    missing = [
        name
        for name, found in (
            ("Vulkan's headers", header),
            ("glslc", compiler),
            ("the headers of SPIR-V", spirv),
        )
        if not found
    ]
    if missing:
        raise _Missing(
            f"The GPU stays unused, as {' and '.join(missing)} {'is' if missing == ['glslc'] else 'are'} missing: "
            "apt-get install libvulkan-dev glslc spirv-headers mesa-vulkan-drivers, then make serve GPU=vulkan."
        )
    assert header is not None
    if "VkLayerSettingEXT" not in _text(header):
        raise _Missing(
            f"The GPU stays unused, as {header} is too old for llama.cpp: unpack the SDK of vulkan.lunarg.com, or take "
            "the headers of Debian 13 or Ubuntu 24.04, name their folder with VULKAN_SDK, then make serve GPU=vulkan."
        )
    _check_access(sorted(here.at("/dev/dri").glob("renderD*")), "vulkan")
    return Plan(
        "vulkan",
        (
            "-DGGML_VULKAN=ON",
            f"-DVulkan_INCLUDE_DIR={header.parents[1]}",
            f"-DVulkan_GLSLC_EXECUTABLE={compiler}",
        ),
        f"llama.cpp is compiled for Vulkan with {compiler}.",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


_FAILED = "failed"  # in the stamp: the processor is used in the plan's place
_FINDERS = {
    "cuda": _cuda,
    "metal": _metal,
    "vulkan": _vulkan,
    "rocm": _rocm,
    "off": _processor,
}


# What make runs


def write_plan(asked: str, stamp: Path, here: Machine) -> Plan:
    """Find the plan, and write it if it changed. Without `asked`, what was asked for the last time.

    It is written, too, if it is asked for in so many words after it could not be carried out: that tries again.
    """
    before = _read(stamp)
    plan = find(asked or before.get("asked", "auto"), here)
    now = {"asked": asked or before.get("asked", "auto"), **_told(plan)}
    failed = before.pop(_FAILED, False)
    if now != before or (asked and failed):
        stamp.write_text(json.dumps(now, indent=1))
    return plan


def read_plan(stamp: Path) -> Plan:
    told = _read(stamp)
    told = {name: told[name] for name in _told(Plan("", ()))}
    return Plan(**told | {"cmake_args": tuple(told["cmake_args"])})


def _note_failure(stamp: Path) -> None:
    stamp.write_text(json.dumps({**_read(stamp), _FAILED: True}, indent=1))


def _read(stamp: Path) -> dict[str, Any]:
    """What the file holds; nothing if it is not there, or was not written to its end."""
    with contextlib.suppress(ValueError):
        told = json.loads(_text(stamp))
        return told if isinstance(told, dict) else {}
    return {}


def _told(plan: Plan) -> dict[str, Any]:
    return asdict(plan) | {"cmake_args": list(plan.cmake_args)}


class BuildFailed(Exception):
    """llama.cpp did not compile; what the compiler said has been shown."""


class Environment:
    """The virtual environment that torch and llama.cpp are installed into."""

    def __init__(self, folder: Path) -> None:
        self.python = folder.absolute() / "bin" / "python"
        self._constraints = CHECKOUT / "constraints.txt"

    def install(self, plan: Plan) -> None:
        """Torch first and alone, as only it may come from the extra index; then llama.cpp."""
        torch = self._version("torch")
        again = ("--force-reinstall",) if plan.cuda_torch and torch and torch.endswith("+cpu") else ()
        self._pip("install", "--no-deps", *again, *(() if plan.cuda_torch else CPU_TORCH), "torch")
        if plan.cuda_packages:
            self.install_cuda()
        wheel = self.wheel(plan)
        # Installed anew: the same version for another GPU looks installed.
        self._pip("install", "--force-reinstall", "--no-deps", str(wheel))

    def ensure_pip(self) -> None:
        """An environment whose making was cut short has none, nor has one of uv's. BuildFailed."""
        if subprocess.run(
            [self.python, "-c", "import pip"], capture_output=True, check=False
        ).returncode and (
            subprocess.run([self.python, "-m", "ensurepip", "--default-pip"], check=False).returncode
        ):
            raise BuildFailed(f"{self.python} has no pip, and make clean serve makes another environment")

    def install_cuda(self) -> None:
        """NVIDIA's compiler, and the libraries and headers it compiles with."""
        self._pip("install", CUDA_PACKAGES)

    def wheel(self, plan: Plan) -> Path:
        """The wheel of llama.cpp, compiled unless that was done before."""
        pin = pinned()
        folder = cache() / f"{pin}-{self._key(plan)}"
        if kept := sorted(folder.glob("*.whl")):
            return kept[0]
        folder.mkdir(parents=True, exist_ok=True)  # now: not after an hour of compiling
        print(f"Compiling llama.cpp, this once: {_WAITS[plan.backend]}.", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            arguments = [*plan.cmake_args, *self._packaged_cuda(plan)]
            arguments += ALWAYS if plan.backend != "custom" else ()
            environment = {
                "CMAKE_BUILD_PARALLEL_LEVEL": str(_compilers(plan)),
                **os.environ,
                "CMAKE_ARGS": shlex.join(arguments),
            }
            wanted = (
                "wheel",
                "--no-deps",
                "--no-cache-dir",
                "--no-binary",
                PROJECT,
                "--wheel-dir",
                scratch,
                pin,
            )
            self._pip(*wanted, environment=environment)
            built = sorted(Path(scratch).glob("*.whl"))
            if not built:
                raise BuildFailed(f"pip made no wheel of {pin}")
            for other in cache().glob(f"{PROJECT}==*"):
                if not other.name.startswith(f"{pin}-"):  # of an earlier release of llama.cpp
                    shutil.rmtree(other, ignore_errors=True)
            half = shutil.copy(built[0], folder / "half")
            return Path(half).rename(folder / built[0].name)  # at once: another make may look for it now

    def _key(self, plan: Plan) -> str:
        """Another one for whatever makes another library: the options, and the processor it is compiled for."""
        processor = re.search(r"^(flags|Features)\s*: .*$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
        told = [*plan.cmake_args, LEAN.read_text(), platform.machine(), processor[0] if processor else ""]
        told += [os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS")]
        told += [plan.toolkit] if plan.toolkit else []
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]

    def _packaged_cuda(self, plan: Plan) -> list[str]:
        """The options that name the packages' compiler, whose folder is made what CMake takes for a toolkit."""
        if not plan.cuda_packages:
            return []
        where = self._print("import sysconfig; print(sysconfig.get_path('purelib'))")
        toolkit = Path(where) / "nvidia" / "cu13"
        _link(toolkit / "lib64", "lib")
        for library in (toolkit / "lib").glob("lib*.so.*"):
            _link(library.with_name(library.name.split(".so.")[0] + ".so"), library.name)
        driver = ctypes.util.find_library("cuda")
        return [
            f"-DCMAKE_CUDA_COMPILER={toolkit}/bin/nvcc",
            f"-DCUDAToolkit_ROOT={toolkit}",
            # The packages have no stub of the driver: the driver itself is linked, or its virtual memory not used.
            f"-DCUDA_cuda_driver_LIBRARY={_full_path(driver)}" if driver else "-DGGML_CUDA_NO_VMM=ON",
        ]

    def _version(self, distribution: str) -> str:
        return self._print(
            "import importlib.metadata as m\n"
            f"print(next((d.version for d in m.distributions(name={distribution!r})), ''))"
        )

    def _print(self, program: str) -> str:
        done = subprocess.run([self.python, "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def _pip(self, *words: str, environment: dict[str, str] | None = None) -> None:
        verb, *rest = words
        command = [
            str(self.python),
            "-m",
            "pip",
            verb,
            "--disable-pip-version-check",
            "-c",
            str(self._constraints),
        ]
        if subprocess.run([*command, *rest], env=environment, check=False).returncode:
            raise BuildFailed(f"pip could not {verb} {rest[-1]}")


def install(environment: Environment, plan: Plan, here: Machine) -> bool:
    """Install by the plan; where it does not compile for the GPU, by the processor's. BuildFailed.

    Returns whether it was the plan.
    """
    if plan.note:
        print(plan.note, flush=True)
    environment.ensure_pip()
    try:
        environment.install(plan)
        return True
    except BuildFailed as failure:
        if plan.backend in ("cpu", "custom"):
            raise
        print(
            f"{failure}: what it says above tells what is missing for {plan.backend}. Until then the processor is "
            f"used; make serve GPU={plan.backend} tries again.",
            flush=True,
        )
        environment.install(_processor(here))
        return False


def pinned() -> str:
    """llama-cpp-python==VERSION, as pyproject.toml has it."""
    table = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements: list[str] = table["project"]["optional-dependencies"]["llama"]
    return next(each for each in requirements if each.startswith(f"{PROJECT}=="))


def cache() -> Path:
    """Where compiled wheels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "orpheus"


def _compilers(plan: Plan) -> int:
    """How many run at once: one a core, where there is memory for them."""
    cores = os.cpu_count() or 1
    if plan.backend not in ("cuda", "rocm"):
        return cores
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // GPU_COMPILER_BYTES))


def _link(path: Path, target: str) -> None:
    if not path.exists():
        path.symlink_to(target)


def _full_path(library: str) -> str:
    """Of a library that the loader finds by its name, as ldconfig lists it."""
    try:
        listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return library
    found = re.search(rf"{re.escape(library)} .*=> (\S+)", listed)
    return found[1] if found else library


def main(words: Sequence[str]) -> int:
    match words:
        case ["plan", asked, stamp]:
            asked = asked.strip().lower()
            if asked and asked not in GPUS:
                print(f"GPU={asked} is not known: GPU={'|'.join(GPUS)}.")
                return 2
            write_plan(asked, Path(stamp), Machine())
        case ["install", folder, stamp]:
            try:
                if not install(Environment(Path(folder)), read_plan(Path(stamp)), Machine()):
                    _note_failure(Path(stamp))
            except BuildFailed as failure:
                print(f"{failure}: what it says above tells why.")
                return 1
            except OSError as error:
                print(f"{error}: free the disk, or name a folder that can be written to with XDG_CACHE_HOME.")
                return 1
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
