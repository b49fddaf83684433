"""Pins of constraints.txt → the images of both tiers.

Knows nothing of what runs in them. The sources are added last and not built in, so that a change of ours starts
with the next container and builds nothing. Where the compiled part of an image must suit a GPU, its name says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import modal

import orpheus
from orpheus.deploy.prices import GPUS
from orpheus.errors import SetupError

PYTHON = "3.12"
CUDA = "nvidia/cuda:12.8.1-devel-ubuntu24.04"  # has the compiler; 12.8 knows every GPU of prices.py
LLAMA_DEBIAN = ("build-essential", "cmake", "git", "ninja-build", "libgomp1")
# Each named: GGML_NATIVE=OFF alone leaves them all out where the compiling machine's own would be taken by default.
PORTABLE = " ".join(
    ("-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2")))
)

# starlette and pydantic come with fastapi, in any version; ours are those the tests ran with.
BOTH = [
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
    "websockets",
    "httpx",
    "huggingface_hub",
    "pydantic-settings",
    "typer",
    "rich",
    "prometheus-client",
    "numpy",
]
LLAMA_PACKAGES = [*BOTH, "llama-cpp-python"]
SPEECH_PACKAGES = [*BOTH, "torch", "snac", "av", "num2words", "sentencex", "msgpack", "cachetools"]

ROOT = Path(orpheus.__file__).parent.parent  # the repository; /root in a container, with what is read here
PINS = "constraints.txt"
NO_SOURCE = ["**/__pycache__", "**/*.pyc"]  # Modal's own choice would leave the embedded voice behind


def llama_image(gpu: str) -> modal.Image:
    """CUDA and llama.cpp, compiled for one GPU and any x86-64 processor with AVX2: builder and runner differ."""
    flags = f"-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES={GPUS[gpu].architecture} {PORTABLE} -DLLAVA_BUILD=OFF"
    return _with_sources(
        modal.Image.from_registry(CUDA, add_python=PYTHON)
        .entrypoint([])
        .apt_install(*LLAMA_DEBIAN)
        .env({"CMAKE_ARGS": flags})
        .uv_pip_install(
            *pinned(LLAMA_PACKAGES), uv_version=uv_version(), extra_options="--no-binary llama-cpp-python"
        )
        .env({"HF_XET_HIGH_PERFORMANCE": "1"})
    )


def speech_image() -> modal.Image:
    """Torch, whose wheel brings CUDA, and SNAC."""
    return _with_sources(
        modal.Image.debian_slim(python_version=PYTHON)
        .uv_pip_install(*pinned(SPEECH_PACKAGES), uv_version=uv_version())
        .env({"HF_XET_HIGH_PERFORMANCE": "1"})
    )


def pinned(names: Sequence[str]) -> list[str]:
    """`name==version` of each, as constraints.txt has it. SetupError where it has not."""
    try:
        lines = (ROOT / PINS).read_text().splitlines()
    except OSError as error:
        raise SetupError(f"{ROOT / PINS} cannot be read: deploy from the repository.") from error
    pins = {line.split("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}
    try:
        return [pins[name.lower().replace("_", "-")] for name in names]
    except KeyError as error:
        raise SetupError(f"{PINS} has no version of {error.args[0]}.") from error


def uv_version() -> str:
    """Of what installs the packages; the same that `make check-pins` asks."""
    return pinned(["uv"])[0].partition("==")[2]


def _with_sources(image: modal.Image) -> modal.Image:
    return image.add_local_file(ROOT / PINS, f"/root/{PINS}").add_local_python_source(
        "orpheus", ignore=NO_SOURCE
    )
