"""Compile llama.cpp for one NVIDIA architecture with nothing but packages, and list the code that its library carries.

    nice python -m benchmarks.cuda_build FOLDER [--architecture 89]

Needs no card and no CUDA toolkit: it proves that `make serve` can compile where there is a card and no toolkit. Takes
hours on two cores: some 190 files, each a minute or more.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
import zipfile
from collections import Counter
from pathlib import Path

from orpheus.ops.build import Environment, Machine, Plan, cuda_arguments

LISTER = "nvidia-cuda-cuobjdump"


def compiled(folder: Path, architecture: int) -> Path:
    """The folder of the libraries in the wheel that is compiled in an environment of its own."""
    venv.create(folder / "venv", with_pip=True)
    environment = Environment(folder / "venv")
    environment.install_cuda()
    plan = Plan("cuda", (*cuda_arguments([architecture]), "-DORPHEUS_PACKAGED_CUDA=ON"), cuda_packages=True)
    with zipfile.ZipFile(environment.wheel(plan)) as wheel:
        wheel.extractall(folder / "wheel")
    return folder / "wheel" / "llama_cpp" / "lib"


def architectures(folder: Path, library: Path) -> Counter[str]:
    """How many pieces of code the library has, by architecture."""
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", LISTER], check=True)
    lister = next((folder / "venv").rglob("bin/cuobjdump"))
    listed = subprocess.run(
        [lister, "--list-elf", library], check=True, capture_output=True, text=True
    ).stdout
    return Counter(re.findall(r"\.(sm_\w+)\.cubin", listed))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_build", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="a new folder, of 8 GB at the end")
    parser.add_argument("--architecture", type=int, default=89, help="89 is L4, L40S and RTX 40")
    chosen = parser.parse_args()
    if Machine().system != "Linux":
        sys.exit("NVIDIA's compiler comes as a package for Linux only.")
    libraries = compiled(chosen.folder.absolute(), chosen.architecture)
    library = libraries / "libggml-cuda.so"
    print(f"{library}: {library.stat().st_size / 1e6:.0f} MB")
    for name, count in architectures(chosen.folder, library).items():
        print(f"{name}: {count} pieces of code")
    subprocess.run(["readelf", "-d", library], check=False)


if __name__ == "__main__":
    main()
