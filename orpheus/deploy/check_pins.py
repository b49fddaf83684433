"""`make check-pins`: the packages of both images → whether they can be installed together, where they will be.

Asks a package index and Debian's lists, so it is no test: one that cannot ask says so and fails. The Python
packages are resolved by uv for Python 3.12 on Linux, as in the images; the names of system packages are the same in
Debian, where they are looked up, and in Ubuntu, whose image tier 1 has.
"""

from __future__ import annotations

import subprocess
import sys

from orpheus.deploy.images import LLAMA_DEBIAN, LLAMA_PACKAGES, PYTHON, SPEECH_PACKAGES, pinned
from orpheus.errors import SetupError

PLATFORM = "x86_64-manylinux_2_36"  # glibc 2.36: Debian 12; the images have newer
DOCKER_DEBIAN = ("python3", "python3-dev", "python3-venv", "ca-certificates")


def resolve(packages: list[str], *options: str) -> list[str]:
    """Every package that comes with these. SetupError with the resolver's reason."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", PYTHON, "--python-platform", PLATFORM, *options]
    done = subprocess.run(command, input="\n".join(packages), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(packages)} cannot be resolved:\n{done.stderr}")
    return done.stdout.split()


def check_debian(names: tuple[str, ...]) -> None:
    """SetupError naming those that Debian has not, or that nobody here can say."""
    try:
        known = subprocess.run(
            ["apt-cache", "pkgnames"], capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"Debian's packages cannot be looked up here ({error}): run this on Debian or Ubuntu."
        ) from error
    if len(known) < 10_000:
        raise SetupError("This machine has no list of Debian's packages: run apt-get update.")
    if unknown := [name for name in names if name not in known]:
        raise SetupError(f"Debian has no {', '.join(unknown)}.")


def main() -> None:
    try:
        for tier, packages in (("llama", LLAMA_PACKAGES), ("speech", SPEECH_PACKAGES)):
            print(f"{tier}: {len(resolve(pinned(packages), *sys.argv[1:]))} packages fit together")
        check_debian(LLAMA_DEBIAN + DOCKER_DEBIAN)
        print(f"system packages: all {len(LLAMA_DEBIAN + DOCKER_DEBIAN)} exist")
    except SetupError as error:
        sys.exit(f"orpheus: {error}")


if __name__ == "__main__":
    main()
