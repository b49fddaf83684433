"""What llama.cpp is compiled for, by what is found on a machine: all tools here are fakes in folders of their own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orpheus.ops import build
from orpheus.ops.build import BuildFailed, Environment, Machine, Plan, find, install, read_plan, write_plan
from tests.support.live import ROOT

L40S = "NVIDIA L40S, 8.9, 580.95.05"


class Fake:
    """A machine with nothing on it; every method puts something there."""

    def __init__(self, folder: Path, system: str = "Linux", processor: str = "x86_64") -> None:
        self._folder = folder
        self.machine = Machine(system, processor, folder / "root", {"PATH": str(folder / "bin")})

    def tool(self, name: str, prints: str = "", code: int = 0) -> Path:
        path = self._folder / name if "/" in name else self._folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(prints)}\nexit {code}\n")
        path.chmod(0o755)
        return path

    def file(self, path: str, text: str = "") -> Path:
        at = self.machine.root / path.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
        return at

    def card(
        self, vendor: str, slot: str = "0000:01:00.0", vram: int | None = None, kind: str = "0x030000"
    ) -> None:
        device = f"/sys/bus/pci/devices/{slot}"
        self.file(f"{device}/vendor", f"{vendor}\n")
        self.file(f"{device}/class", f"{kind}\n")
        if vram is not None:
            self.file(f"{device}/mem_info_vram_total", f"{vram}\n")

    def nvidia(self, listed: str = L40S, code: int = 0) -> None:
        self.card("0x10de")
        self.tool("nvidia-smi", listed, code)

    def smi_of_before_compute_cap(self) -> None:
        asked = (
            "case $1 in --query*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2 ;; esac"
        )
        self.tool("nvidia-smi").write_text(f"#!/bin/sh\n{asked}\necho 'GPU 0: Tesla K80 (UUID: GPU-1)'\n")

    def nvcc(self, *architectures: int, at: str = "nvcc", version: str = "release 12.8") -> Path:
        known = "\n".join(f"compute_{each}" for each in architectures or (75, 80, 86, 89, 90))
        path = self.tool(at)
        path.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo '{version}' || echo '{known}'\n")
        return path

    def vulkan(self, *, new: bool = True, but: str = "") -> None:
        if but != "headers":
            header = "/usr/include/vulkan/vulkan_core.h"
            self.file(header, "typedef struct VkLayerSettingEXT" if new else "#define VK_HEADER_VERSION 239")
        if but != "glslc":
            self.tool("glslc")
        if but != "spirv":
            self.file("/usr/include/spirv/unified1/spirv.hpp")


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_a_machine_without_a_gpu_compiles_for_its_processor_and_says_nothing(fake: Fake) -> None:
    plan = find("auto", fake.machine)
    assert (plan.backend, plan.note, plan.cuda_torch) == ("cpu", "", False)
    assert "-DCMAKE_UNITY_BUILD=ON" in plan.cmake_args


def test_an_nvidia_gpu_and_its_compiler_are_both_used(fake: Fake) -> None:
    fake.nvidia()
    nvcc = fake.nvcc()
    plan = find("auto", fake.machine)
    assert plan.backend == "cuda"
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=89-real"} < set(plan.cmake_args)
    assert f"-DCMAKE_CUDA_COMPILER={nvcc}" in plan.cmake_args
    assert "-DCMAKE_UNITY_BUILD=ON" not in plan.cmake_args
    assert plan.cuda_torch
    assert not plan.cuda_packages
    assert plan.note == f"llama.cpp is compiled for NVIDIA L40S with {nvcc}."


def test_every_card_that_is_present_is_compiled_for(fake: Fake) -> None:
    fake.nvidia(f"{L40S}\nNVIDIA A10, 8.6, 580.95.05\n{L40S}")
    fake.nvcc()
    assert "-DCMAKE_CUDA_ARCHITECTURES=86-real;89-real" in find("auto", fake.machine).cmake_args


@pytest.mark.parametrize("where", ["CUDA_HOME", "CUDA_PATH", "/usr/local/cuda"])
def test_a_toolkit_that_is_not_on_the_path_is_found(fake: Fake, where: str) -> None:
    fake.nvidia()
    if where.startswith("/"):
        nvcc = fake.nvcc(at="root/usr/local/cuda/bin/nvcc")
    else:
        nvcc = fake.nvcc(at="toolkit/bin/nvcc")
        fake.machine.environment[where] = str(nvcc.parents[1])
    assert f"-DCMAKE_CUDA_COMPILER={nvcc}" in find("auto", fake.machine).cmake_args


@pytest.mark.parametrize("nvcc", [None, (50, 60, 70, 80)], ids=["no nvcc", "an nvcc older than the card"])
def test_without_a_compiler_that_knows_the_card_nvidias_packages_bring_one(
    fake: Fake, nvcc: tuple[int, ...] | None
) -> None:
    fake.nvidia("NVIDIA GeForce RTX 5090, 12.0, 581.1")
    if nvcc:
        fake.nvcc(*nvcc)
    plan = find("auto", fake.machine)
    assert (plan.backend, plan.cuda_packages, plan.cuda_torch) == ("cuda", True, True)
    assert "-DCMAKE_CUDA_ARCHITECTURES=120-real" in plan.cmake_args
    assert "comes as a package" in plan.note


def test_a_driver_too_old_for_cuda_13_uses_the_toolkit_and_leaves_the_codec_on_the_processor(
    fake: Fake,
) -> None:
    fake.nvidia("NVIDIA L4, 8.9, 550.54.14")
    fake.nvcc()
    plan = find("auto", fake.machine)
    assert (plan.backend, plan.cuda_torch) == ("cuda", False)


@pytest.mark.parametrize(
    ("prepare", "brings"),
    [
        (lambda fake: fake.nvidia("NVIDIA L4, 8.9, 550.54.14"), "apt-get install nvidia-cuda-toolkit"),
        (lambda fake: fake.nvidia("GTX 1080, 6.1, 580.95"), "apt-get install nvidia-cuda-toolkit"),
        (lambda fake: fake.nvidia("GTX 1080, 6.1, 580.95") or fake.nvcc(75, 89), "CUDA_HOME"),
        (
            lambda fake: fake.nvidia(f"GTX 1080, 6.1, 580.95\n{L40S}") or fake.nvcc(75, 89),
            "GTX 1080 stays unused",
        ),
        (lambda fake: fake.nvidia(f"GTX 1080, 6.1, 580.95\n{L40S}") or fake.nvcc(75, 89), "capability 6.1"),
        (lambda fake: fake.nvidia("Driver/library version mismatch", 18), "restart"),
        (lambda fake: fake.nvidia("GPU 0: L4, [N/A], 390.1"), "driver is too old"),
        (lambda fake: fake.nvidia("No devices were found"), "does not answer"),
        (lambda fake: fake.nvidia("") or fake.smi_of_before_compute_cap(), "newer nvidia-driver"),
        (lambda fake: fake.card("0x10de"), "apt-get install nvidia-driver"),
        (lambda fake: fake.card("0x1002"), "apt-get install libvulkan-dev glslc spirv-headers"),
        (
            lambda fake: fake.card("0x8086", "0000:03:00.0"),
            "apt-get install libvulkan-dev glslc spirv-headers",
        ),
        (lambda fake: fake.card("0x1002") or fake.vulkan(but="glslc"), "glslc is missing"),
        (lambda fake: fake.card("0x1002") or fake.vulkan(but="headers"), "Vulkan's headers are missing"),
        (lambda fake: fake.card("0x1002") or fake.vulkan(but="spirv"), "the headers of SPIR-V are missing"),
        (lambda fake: fake.card("0x1002") or fake.vulkan(new=False), "vulkan.lunarg.com"),
        (lambda fake: fake.card("0x1002") or fake.tool("hipcc"), "modprobe amdgpu"),
    ],
)
def test_what_is_missing_is_one_sentence_and_the_processor_is_used_meanwhile(
    fake: Fake, prepare: Callable[[Fake], object], brings: str
) -> None:
    prepare(fake)
    plan = find("auto", fake.machine)
    assert (plan.backend, plan.cuda_torch, plan.cuda_packages) == ("cpu", False, False)
    missing, ending = plan.note.split(" Until ")
    assert brings in missing
    assert "make serve" in missing
    assert "stays unused" in missing
    assert ending == "then the processor is used."


def test_an_apple_gpu_is_used_by_metal(tmp_path: Path) -> None:
    plan = find("auto", Fake(tmp_path, "Darwin", "arm64").machine)
    assert plan.backend == "metal"
    assert plan.cmake_args == ("-DGGML_METAL=ON",)


def test_a_mac_without_apple_silicon_uses_its_processor_without_metal(tmp_path: Path) -> None:
    plan = find("auto", Fake(tmp_path, "Darwin", "x86_64").machine)
    assert plan.backend == "cpu"
    assert "-DGGML_METAL=OFF" in plan.cmake_args


@pytest.mark.parametrize(("vendor", "slot"), [("0x1002", "0000:03:00.0"), ("0x8086", "0000:03:00.0")])
def test_amd_and_intel_cards_are_used_by_vulkan(fake: Fake, vendor: str, slot: str) -> None:
    fake.card(vendor, slot)
    fake.vulkan()
    plan = find("auto", fake.machine)
    assert plan.backend == "vulkan"
    assert "-DGGML_VULKAN=ON" in plan.cmake_args
    assert f"-DVulkan_INCLUDE_DIR={fake.machine.root}/usr/include" in plan.cmake_args


@pytest.mark.parametrize(("vendor", "backend"), [("0x1002", "vulkan"), ("0x8086", "cpu")])
def test_an_accelerator_of_amd_is_a_gpu_and_one_of_intel_is_not(
    fake: Fake, vendor: str, backend: str
) -> None:
    """An Instinct MI300X; the NPU of a Core Ultra."""
    fake.card(vendor, "0000:00:0b.0", kind="0x120000")
    fake.vulkan()
    assert find("auto", fake.machine).backend == backend


def test_a_vulkan_sdk_goes_before_the_systems_headers(fake: Fake, tmp_path: Path) -> None:
    fake.card("0x1002")
    fake.vulkan(new=False)
    sdk = tmp_path / "sdk"
    for path, text in (("vulkan/vulkan_core.h", "VkLayerSettingEXT"), ("spirv/unified1/spirv.hpp", "")):
        (sdk / "include" / path).parent.mkdir(parents=True)
        (sdk / "include" / path).write_text(text)
    fake.machine.environment["VULKAN_SDK"] = str(sdk)
    assert f"-DVulkan_INCLUDE_DIR={sdk}/include" in find("auto", fake.machine).cmake_args


def test_an_amd_card_with_rocm_is_compiled_for_by_its_own_name(fake: Fake) -> None:
    fake.card("0x1002")
    fake.vulkan()
    fake.tool("root/opt/rocm/bin/hipcc")
    fake.tool("root/opt/rocm/bin/hipconfig", "/opt/rocm/llvm/bin")
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    fake.file(f"{nodes}/0/properties", "cpu_cores_count 16\ngfx_target_version 0\n")
    fake.file(f"{nodes}/1/properties", "simd_count 192\ngfx_target_version 110000\n")
    fake.file(f"{nodes}/2/properties", "simd_count 208\ngfx_target_version 90010\n")
    plan = find("auto", fake.machine)
    assert plan.backend == "rocm"
    assert "-DGPU_TARGETS=gfx1100;gfx90a" in plan.cmake_args
    assert "-DCMAKE_HIP_COMPILER=/opt/rocm/llvm/bin/clang++" in plan.cmake_args


@pytest.mark.parametrize(("device", "asked"), [("/dev/dri/renderD128", "vulkan"), ("/dev/kfd", "rocm")])
def test_a_gpu_that_this_user_may_not_use_says_how_that_changes(
    fake: Fake, device: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.card("0x1002")
    fake.vulkan()
    fake.tool("hipcc")
    fake.file("/sys/class/kfd/kfd/topology/nodes/1/properties", "gfx_target_version 110000\n")
    path = fake.file(device)
    assert find(asked, fake.machine).backend == asked
    access = os.access
    monkeypatch.setattr(build.os, "access", lambda at, mode: str(at) != str(path) and access(at, mode))
    plan = find(asked, fake.machine)
    assert plan.backend == "cpu"
    assert f"you may not use {path}: sudo usermod -aG render,video $USER" in plan.note
    assert f"make serve GPU={asked}" in plan.note


@pytest.mark.parametrize(
    ("vendor", "slot", "vram"), [("0x8086", "0000:00:02.0", None), ("0x1002", "0000:05:00.0", 512 << 20)]
)
def test_a_gpu_in_the_processor_is_used_only_when_asked_for(
    fake: Fake, vendor: str, slot: str, vram: int | None
) -> None:
    fake.card(vendor, slot, vram)
    fake.vulkan()
    plan = find("auto", fake.machine)
    assert plan.backend == "cpu"
    assert "make serve GPU=vulkan tries the GPU" in plan.note
    assert find("vulkan", fake.machine).backend == "vulkan"


def test_off_leaves_every_gpu_unused(fake: Fake) -> None:
    fake.nvidia()
    fake.nvcc()
    assert find("off", fake.machine) == find(
        "auto", replace(fake.machine, environment={"PATH": ""}, root=Path("/none"))
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("cuda", "nvidia-smi, which comes with the driver, is not found"),
        ("metal", "for a Mac with Apple silicon"),
        ("vulkan", "apt-get install libvulkan-dev"),
        ("rocm", "apt-get install hipcc"),
    ],
)
def test_a_gpu_that_was_asked_for_and_is_not_there_says_what_brings_it(
    fake: Fake, asked: str, says: str
) -> None:
    plan = find(asked, fake.machine)
    assert plan.backend == "cpu"
    assert says in plan.note
    assert plan.note.endswith("Until then the processor is used.")


def test_a_compiler_without_a_card_is_no_gpu(fake: Fake) -> None:
    fake.nvcc()
    assert find("auto", fake.machine).backend == "cpu"


def test_cmake_args_of_ones_own_are_taken_as_they_are(fake: Fake) -> None:
    fake.machine.environment["CMAKE_ARGS"] = "-DGGML_SYCL=ON '-DCMAKE_CXX_FLAGS=-O2 -g'"
    assert find("auto", fake.machine).cmake_args == ("-DGGML_SYCL=ON", "-DCMAKE_CXX_FLAGS=-O2 -g")


# The stamp


def test_the_plan_is_written_only_when_it_is_another(fake: Fake, tmp_path: Path) -> None:
    stamp = tmp_path / "gpu.json"
    write_plan("", stamp, fake.machine)
    before = stamp.stat().st_mtime_ns
    write_plan("", stamp, fake.machine)
    write_plan("auto", stamp, fake.machine)
    assert stamp.stat().st_mtime_ns == before
    fake.nvidia()
    plan = write_plan("", stamp, fake.machine)
    assert stamp.stat().st_mtime_ns > before
    assert read_plan(stamp) == plan
    assert plan.backend == "cuda"


def test_what_was_asked_for_counts_until_something_else_is(fake: Fake, tmp_path: Path) -> None:
    fake.nvidia()
    stamp = tmp_path / "gpu.json"
    assert write_plan("off", stamp, fake.machine).backend == "cpu"
    assert write_plan("", stamp, fake.machine).backend == "cpu"
    assert write_plan("auto", stamp, fake.machine).backend == "cuda"


def test_a_gpu_of_no_known_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["plan", "nvidia", str(tmp_path / "gpu.json")]) == 2
    assert "GPU=auto|cuda|metal|vulkan|rocm|off" in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["CUDA", "Cuda", " cuda "])
def test_the_name_of_a_gpu_may_be_written_in_capitals(asked: str, tmp_path: Path) -> None:
    stamp = tmp_path / "gpu.json"
    assert build.main(["plan", asked, str(stamp)]) == 0
    assert json.loads(stamp.read_text())["asked"] == "cuda"


@pytest.mark.parametrize("left", ["", '{"asked": "off", "backe', "[]", "\0"])
def test_a_stamp_that_was_not_written_to_its_end_is_written_anew(
    left: str, fake: Fake, tmp_path: Path
) -> None:
    stamp = tmp_path / "gpu.json"
    stamp.write_text(left)
    plan = write_plan("", stamp, fake.machine)
    assert read_plan(stamp) == plan


def test_another_release_of_the_toolkit_is_another_build(fake: Fake, cache: Path, tmp_path: Path) -> None:
    """Its libraries have other names, so that what was compiled with the one before does not load."""
    fake.nvidia()
    environment, stamp = FakeEnvironment(tmp_path), tmp_path / "gpu.json"
    for release in ("12.8", "13.0"):
        before = stamp.read_text() if stamp.exists() else ""
        fake.nvcc(version=f"release {release}")
        lines = environment.install(write_plan("", stamp, fake.machine), fake.machine)
        assert stamp.read_text() != before
        assert any(line.startswith("wheel ") for line in lines)


def test_it_needs_nothing_that_is_not_in_python(tmp_path: Path) -> None:
    """It runs in an environment that has nothing yet."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-m", "orpheus.ops.build", "plan", "off", str(tmp_path / "gpu.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_plan(tmp_path / "gpu.json").backend == "cpu"


# Installing, with a pip that only writes down what it is asked for


class FakeEnvironment:
    def __init__(self, folder: Path, torch: str = "") -> None:
        self.folder = folder / "venv"
        self.log = folder / "log"
        self._broken = folder / "broken"
        self._no_pip = folder / "no pip"
        site = self.folder / "site"
        libraries = site / "nvidia" / "cu13" / "lib"
        libraries.mkdir(parents=True)
        (libraries / "libcublas.so.13").touch()
        self.toolkit = libraries.parent
        python = self.folder / "bin" / "python"
        python.parent.mkdir()
        python.write_text(
            f"""#!{sys.executable}
import os, pathlib, sys
words = sys.argv[1:]
if words == ["-m", "ensurepip", "--default-pip"]:
    pathlib.Path({str(self._no_pip)!r}).unlink()
    sys.exit()
if words[0] == "-c":
    if words[1] == "import pip":
        sys.exit(pathlib.Path({str(self._no_pip)!r}).exists())
    print({str(site)!r} if "purelib" in words[1] else {torch!r})
    sys.exit()
if pathlib.Path({str(self._no_pip)!r}).exists():
    sys.exit("No module named pip")
with open({str(self.log)!r}, "a") as log:
    log.write(" ".join(words[2:]) + "\\n" + ("with " + os.environ["CMAKE_ARGS"] + "\\n" if "wheel" in words else ""))
broken = pathlib.Path({str(self._broken)!r})
if "wheel" in words:
    if broken.exists() and broken.read_text() in os.environ["CMAKE_ARGS"]:
        sys.exit(1)
    folder = pathlib.Path(words[words.index("--wheel-dir") + 1])
    (folder / "llama_cpp_python-1-py3-none-any.whl").write_text("a wheel")
"""
        )
        python.chmod(0o755)

    def loses_pip(self) -> None:
        self._no_pip.touch()

    def breaks(self, argument: str) -> None:
        self._broken.write_text(argument)

    def install(self, plan: Plan, here: Machine) -> list[str]:
        """The lines that were written down."""
        self.log.write_text("")
        install(Environment(self.folder), plan, here)
        return self.log.read_text().splitlines()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return tmp_path / "cache" / "orpheus"


def test_an_environment_whose_making_was_cut_short_gets_its_pip(
    fake: Fake, cache: Path, tmp_path: Path
) -> None:
    environment = FakeEnvironment(tmp_path)
    environment.loses_pip()
    assert len(environment.install(find("off", fake.machine), fake.machine)) == 4


def test_without_a_gpu_torch_is_the_processors(fake: Fake, cache: Path, tmp_path: Path) -> None:
    lines = FakeEnvironment(tmp_path).install(find("auto", fake.machine), fake.machine)
    torch, wheel, options, llama = lines
    assert "download.pytorch.org/whl/cpu" in torch
    assert torch.endswith(" torch")
    assert f" {build.pinned()}" in wheel
    assert "-DCMAKE_UNITY_BUILD=ON" in options
    assert "llama_cpp_lean.cmake" in options
    assert "--force-reinstall --no-deps" in llama
    assert str(cache) in llama


def test_with_a_gpu_torch_is_nvidias_and_its_compiler_is_installed(
    fake: Fake, cache: Path, tmp_path: Path
) -> None:
    fake.nvidia()
    environment = FakeEnvironment(tmp_path, torch="2.13.0+cpu")
    torch, compiler, _, options, _ = environment.install(find("auto", fake.machine), fake.machine)
    assert "pytorch.org" not in torch
    assert "--force-reinstall torch" in torch  # the processor's has the same version
    assert compiler.endswith("cuda-toolkit[nvcc,cublas,cccl]")
    assert f"-DCMAKE_CUDA_COMPILER={environment.toolkit}/bin/nvcc" in options
    assert f"-DCUDAToolkit_ROOT={environment.toolkit}" in options
    assert "-DORPHEUS_PACKAGED_CUDA=ON" in options
    assert (environment.toolkit / "lib64" / "libcublas.so").exists()


def test_nvidias_torch_is_not_installed_twice(fake: Fake, cache: Path, tmp_path: Path) -> None:
    fake.nvidia()
    fake.nvcc()
    torch, *_ = FakeEnvironment(tmp_path, torch="2.13.0").install(find("auto", fake.machine), fake.machine)
    assert "--force-reinstall" not in torch


def test_nothing_is_compiled_twice(fake: Fake, cache: Path, tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path)
    processor = find("off", fake.machine)
    fake.nvidia()
    fake.nvcc()
    card = find("auto", fake.machine)
    compiled = [
        any(line.startswith("wheel ") for line in environment.install(plan, fake.machine))
        for plan in (processor, card, processor, card)
    ]
    assert compiled == [True, True, False, False]


@pytest.mark.parametrize(
    ("backend", "gib", "cores", "compilers"),
    [("cpu", 1, 8, 8), ("cuda", 4, 8, 2), ("cuda", 64, 8, 8), ("rocm", 1, 8, 1)],
)
def test_no_more_compilers_run_at_once_than_fit_the_memory(
    backend: str, gib: int, cores: int, compilers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(build.os, "sysconf", {"SC_PHYS_PAGES": gib << 18, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert build._compilers(Plan(backend, ())) == compilers


def test_wheels_of_another_release_of_llama_cpp_are_removed(fake: Fake, cache: Path, tmp_path: Path) -> None:
    old = cache / "llama-cpp-python==0.0.1-0123456789ab"
    old.mkdir(parents=True)
    FakeEnvironment(tmp_path).install(find("auto", fake.machine), fake.machine)
    assert not old.exists()
    assert len(list(cache.iterdir())) == 1


def test_a_build_for_the_gpu_that_fails_is_told_and_the_processor_is_used(
    fake: Fake, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.nvidia()
    fake.nvcc()
    environment = FakeEnvironment(tmp_path)
    environment.breaks("GGML_CUDA")
    lines = environment.install(find("auto", fake.machine), fake.machine)
    assert "-DCMAKE_UNITY_BUILD=ON" in lines[-2]
    assert "make serve GPU=cuda tries again" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    environment, stamp = FakeEnvironment(tmp_path), tmp_path / "gpu.json"
    build.main(["plan", "off", str(stamp)])
    assert build.main(["install", str(environment.folder), str(stamp)]) == 1
    assert "XDG_CACHE_HOME" in capsys.readouterr().out
    assert [line.split()[0] for line in environment.log.read_text().splitlines()] == ["install"]  # of torch


def test_a_build_for_the_processor_that_fails_is_a_failure(fake: Fake, cache: Path, tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path)
    environment.breaks("UNITY")
    with pytest.raises(BuildFailed, match=r"could not wheel llama-cpp-python"):
        environment.install(find("auto", fake.machine), fake.machine)
