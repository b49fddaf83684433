"""The GPUs that this build of llama.cpp can use on this machine, and whether Orpheus-3B keeps up with speech on one.

Importing this module loads llama.cpp: import it inside the function that needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from dataclasses import dataclass

from orpheus import llamacpp
from orpheus.vocabulary import FRAME_S, SLOTS

# Every token reads all weights: Orpheus-3B at Q8_0 with its trimmed head, for one stream in real time. Of a card's
# bandwidth llama.cpp reaches 0.7 (an RTX 4090: https://github.com/ggml-org/llama.cpp/discussions/4766).
REAL_WEIGHTS_GB = 3.1
BANDWIDTH_SHARE = 0.7
NEEDED_GB_PER_S = REAL_WEIGHTS_GB * SLOTS / FRAME_S / BANDWIDTH_SHARE  # 363
NEEDED_BYTES = 6 << 30  # those weights, the cache of a few streams and the codec
# Where the bandwidth cannot be asked for: no discrete GPU with this much memory is known to be slower.
AMPLE_BYTES = 15 << 30

_GPU, _INTEGRATED_GPU = 1, 2  # ggml_backend_dev_type
_MEMORY_CLOCK_KHZ, _MEMORY_BUS_BITS = 36, 37  # CUdevice_attribute

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU, as llama.cpp lists it."""

    name: str  # llama.cpp's: CUDA0, ROCm0, MTL0, Vulkan0
    description: str  # the maker's: NVIDIA L40S
    integrated: bool
    free_bytes: int
    total_bytes: int
    bandwidth_gb_per_s: float | None = None  # of its memory, if its driver tells

    @property
    def backend(self) -> str:
        return self.name.rstrip("0123456789").lower()

    @property
    def keeps_up(self) -> bool:
        """Whether Orpheus-3B at Q8_0 is expected to generate speech faster than it is heard."""
        if self.total_bytes < NEEDED_BYTES:
            return False
        match self.backend:
            case "cuda" if self.bandwidth_gb_per_s is not None:
                return self.bandwidth_gb_per_s >= NEEDED_GB_PER_S
            case "vulkan" if "llvmpipe" in self.description:  # Mesa's, which runs on the processor
                return False
            case "cuda" | "rocm" | "vulkan":
                return not self.integrated and self.total_bytes >= AMPLE_BYTES
            case "mtl" | "metal":  # an M1 reads 68 GB/s, an M4 Pro 273, a Max 400 or more
                return any(chip in self.description for chip in (" Max", " Ultra"))
            case _:
                return False

    def __str__(self) -> str:
        speed = f", reading {self.bandwidth_gb_per_s:.0f} GB/s" if self.bandwidth_gb_per_s else ""
        return f"{self.description} ({self.free_bytes / 2**30:.1f} of {self.total_bytes / 2**30:.1f} GiB free{speed})"


def find_gpu() -> Gpu | None:
    """The first GPU that llama.cpp would use; None if it uses none."""
    if not llamacpp.gpu_available():
        return None
    library = llamacpp.llama_cpp.llama_cpp._lib  # ggml's symbols are found through its handle
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    for text in (library.ggml_backend_dev_name, library.ggml_backend_dev_description):
        text.argtypes, text.restype = [ctypes.c_void_p], ctypes.c_char_p
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    sizes = ctypes.c_size_t(), ctypes.c_size_t()
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    library.ggml_backend_dev_memory.restype = None
    for number in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(number)
        kind = library.ggml_backend_dev_type(device)
        if kind not in (_GPU, _INTEGRATED_GPU):
            continue
        library.ggml_backend_dev_memory(device, *sizes)
        name = library.ggml_backend_dev_name(device).decode()
        return Gpu(
            name,
            library.ggml_backend_dev_description(device).decode(errors="replace"),
            integrated=kind == _INTEGRATED_GPU,
            free_bytes=sizes[0].value,
            total_bytes=sizes[1].value,
            bandwidth_gb_per_s=_cuda_bandwidth_gb_per_s() if name == "CUDA0" else None,
        )
    return None


def _cuda_bandwidth_gb_per_s() -> float | None:
    """What the first CUDA device's memory can transfer, from its clock and the width of its bus."""
    with contextlib.suppress(OSError, AttributeError):
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        device, clock_khz, bits = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        failed = (
            cuda.cuInit(0)
            or cuda.cuDeviceGet(ctypes.byref(device), 0)
            or cuda.cuDeviceGetAttribute(ctypes.byref(clock_khz), _MEMORY_CLOCK_KHZ, device)
            or cuda.cuDeviceGetAttribute(ctypes.byref(bits), _MEMORY_BUS_BITS, device)
        )
        if not failed and clock_khz.value and bits.value:
            return 2 * clock_khz.value * 1e3 * bits.value / 8 / 1e9  # twice a clock
    return None
