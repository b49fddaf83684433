"""pyproject.toml and constraints.txt → the images of all apps.

The sources are mounted last and not built in: a change of ours starts with the next container and builds nothing.
llama.cpp has a layer to itself, compiled again only for another release or another GPU.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import modal

import orpheus
from orpheus.deploy.prices import GPUS
from orpheus.errors import SetupError

PYTHON = "3.12"
UV = "0.13.8"
CUDA = "nvidia/cuda:12.8.1-devel-ubuntu24.04"  # has the compiler; 12.8 knows every GPU of prices.py
CUDA_13 = "nvidia/cuda:13.0.1-devel-ubuntu24.04"  # what vLLM's torch is made for; vLLM compiles kernels as it starts
VLLM = "0.32.0"
VLLM_FOLDER = "/vllm"  # an environment of its own: it wants other versions of what we share
LLAMA_DEBIAN = ("build-essential", "cmake", "git", "ninja-build", "libgomp1")
# Each named: GGML_NATIVE=OFF alone leaves them all out where the compiling machine's own would be taken by default.
PORTABLE = " ".join(
    ("-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2")))
)

ROOT = Path(
    orpheus.__file__
).parent.parent  # the repository; /root in a container, which reads this file again
PROJECT, LOCK = "pyproject.toml", "constraints.txt"
LEAN = Path("cmake", "llama_cpp_lean.cmake")  # leaves out of llama.cpp what is not loaded
NO_SOURCE = ["**/__pycache__", "**/*.pyc"]  # Modal's own choice would leave the embedded voice behind


def llama_image(gpu: str) -> modal.Image:
    """CUDA and llama.cpp, compiled for one GPU and any x86-64 processor with AVX2: builder and runner differ."""
    return _complete(_with_llama(_cuda(CUDA), gpu), "llama", "otel")


def speech_image() -> modal.Image:
    """Torch, whose wheel brings CUDA, and SNAC."""
    return _complete(modal.Image.debian_slim(python_version=PYTHON), "speech", "otel")


def agent_image() -> modal.Image:
    """As tier 2's, with what hears: Whisper's weights are in a wheel."""
    return _complete(modal.Image.debian_slim(python_version=PYTHON), "speech", "agent", "otel")


def llm_image() -> modal.Image:
    """vLLM, in an environment of its own, and ours beside it, which starts it."""
    return _complete(_with_vllm(_cuda(CUDA_13)))


def single_image(gpu: str) -> modal.Image:
    """All of it."""
    return _complete(_with_llama(_with_vllm(_cuda(CUDA_13)), gpu), "llama", "speech", "agent", "otel")


def caller_image() -> modal.Image:
    """Ours alone, for a function that only calls others."""
    return _complete(modal.Image.debian_slim(python_version=PYTHON))


def _cuda(tag: str) -> modal.Image:
    return modal.Image.from_registry(tag, add_python=PYTHON).entrypoint([])


def _with_llama(image: modal.Image, gpu: str) -> modal.Image:
    flags = (
        f"-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES={GPUS[gpu].architecture} {PORTABLE} -DLLAVA_BUILD=OFF "
        f"-DCMAKE_PROJECT_llama.cpp_INCLUDE=/{LEAN.name}"
    )
    return (
        image.apt_install(*LLAMA_DEBIAN)
        .add_local_file(ROOT / LEAN, f"/{LEAN.name}", copy=True)
        .env({"CMAKE_ARGS": flags})
        .uv_pip_install(
            *requirements("llama"), uv_version=UV, extra_options="--no-deps --no-binary llama-cpp-python"
        )
    )


def _with_vllm(image: modal.Image) -> modal.Image:
    """`vllm` on the path. Triton, which it compiles kernels with, needs a C compiler as it runs."""
    return image.apt_install("build-essential").run_commands(
        f"python -m venv {VLLM_FOLDER}",
        f"{VLLM_FOLDER}/bin/pip install --no-cache-dir vllm=={VLLM}",
        f"ln -s {VLLM_FOLDER}/bin/vllm /usr/local/bin/vllm",
    )


def requirements(extra: str | None = None) -> list[str]:
    """What both tiers need, or what `extra` adds, as pyproject.toml has it. SetupError if it cannot be read."""
    try:
        project = tomllib.loads((ROOT / PROJECT).read_text(encoding="utf-8"))["project"]
    except OSError as error:
        raise SetupError(f"{ROOT / PROJECT} cannot be read: deploy from the repository.") from error
    names: list[str] = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return names


def _complete(image: modal.Image, *extras: str) -> modal.Image:
    """`image` with what all need and what `extras` add, in the locked versions, and the sources."""
    wanted = [name for extra in (None, *extras) for name in requirements(extra)]
    return (
        image.add_local_file(ROOT / LOCK, f"/{LOCK}", copy=True)
        .uv_pip_install(*wanted, uv_version=UV, extra_options=f"--constraints /{LOCK}")
        .env({"HF_XET_HIGH_PERFORMANCE": "1"})
        .add_local_file(ROOT / PROJECT, f"/root/{PROJECT}")
        .add_local_python_source("orpheus", ignore=NO_SOURCE)
    )
