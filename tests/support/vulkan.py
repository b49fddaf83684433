"""llama.cpp on Vulkan without a GPU: Mesa's software device, set up once, and a command run with it.

    python -m tests.support.vulkan COMMAND …

The first time it fetches Debian's packages, unpacks them beside the compiled wheels, where nothing else sees them, and
compiles llama.cpp as `make serve GPU=vulkan` does: five minutes on two free cores. The shaders are compiled at the
first load, which takes minutes, and kept by Mesa.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from orpheus.ops.build import Environment, Machine, cache, find

# By release of Debian: Vulkan's headers of 12 are too old for llama.cpp, and headers fit any release.
SOURCES = {
    "bookworm": ("glslc", "libshaderc1", "libvulkan1"),
    "bookworm-backports": ("mesa-vulkan-drivers",),
    "trixie": ("libvulkan-dev", "spirv-headers"),
}
MIRROR = "http://deb.debian.org/debian"
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpacked(folder: Path) -> Path:
    """The packages of `SOURCES` in a folder of their own, usr/ and all."""
    root = folder / "root"
    if (folder / "done").exists():
        return root
    debs = folder / "debs"
    for each in (root, debs, folder / "lists/partial", folder / "apt/archives/partial"):
        each.mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text("".join(f"deb [signed-by={KEY}] {MIRROR} {release} main\n" for release in SOURCES))
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "apt",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    wanted = [f"{package}/{release}" for release, packages in SOURCES.items() for package in packages]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *wanted], cwd=debs, check=True)
    for deb in debs.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, root], check=True)
    driver = root / "usr/share/vulkan/icd.d/lvp_icd.json"
    # It names its library by its file alone, or by a path that is another one here.
    library = next((root / "usr/lib").glob("*/libvulkan_lvp.so"))
    driver.with_name("here.json").write_text(
        f'{{"ICD": {{"api_version": "1.4.305", "library_path": "{library}"}}, "file_format_version": "1.0.0"}}'
    )
    (folder / "done").touch()
    return root


def environment() -> dict[str, str]:
    """The variables with which llama.cpp runs on the software device; everything is set up if it is not yet."""
    folder = cache() / "vulkan"
    root = unpacked(folder)
    libraries = next((root / "usr/lib").glob("*-linux-gnu"))
    paths = {
        "VULKAN_SDK": str(root / "usr"),
        "PATH": f"{root}/usr/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    os.environ.update(paths)  # for the compiler
    plan = find("vulkan", Machine())
    assert plan.backend == "vulkan", plan.note
    plan = replace(plan, cmake_args=(*plan.cmake_args, f"-DVulkan_LIBRARY={libraries}/libvulkan.so"))
    wheel = Environment(Path(sys.prefix)).wheel(plan)
    site = folder / wheel.parent.name
    if not (site / "llama_cpp/lib").is_dir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return {
        **paths,
        "LLAMA_CPP_LIB_PATH": str(site / "llama_cpp/lib"),
        "VK_ICD_FILENAMES": str(root / "usr/share/vulkan/icd.d/here.json"),
        "GGML_VK_VISIBLE_DEVICES": "0",  # a software device is taken only when it is named
        "MESA_SHADER_CACHE_DIR": str(folder / "shaders"),
    }


if __name__ == "__main__":
    sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **environment()}, check=False).returncode)
