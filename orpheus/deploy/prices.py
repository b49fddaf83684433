"""What one container costs per hour on Modal, in US dollars before taxes and the free credits of a plan."""

from __future__ import annotations

from dataclasses import dataclass

PRICED = "2026-05 to 2026-10"  # when these were read at modal.com/pricing
CORE_USD_S = 0.0000131
GIB_USD_S = 0.00000222
BROAD, NARROW = 1.15, 1.75  # factor of a region such as us, and of one such as us-east
BROAD_REGIONS = {"us", "eu", "ap", "uk", "ca", "jp", "au", "me", "sa", "af", "mx", "in"}


@dataclass(frozen=True)
class Gpu:
    usd_s: float
    architecture: int  # CUDA's compute capability times ten, which llama.cpp is compiled for


GPUS = {
    "T4": Gpu(0.000164, 75),
    "L4": Gpu(0.000222, 89),
    "L40S": Gpu(0.000542, 89),
    "A100-80GB": Gpu(0.000694, 80),
    "H100": Gpu(0.001097, 90),
    "B200": Gpu(0.001736, 100),
}


def hourly_usd(gpu: str, cores: float, memory_gib: float, region: str | None) -> float:
    """One running container, idle or busy: Modal bills what is reserved."""
    factor = 1.0 if region is None else BROAD if region in BROAD_REGIONS else NARROW
    return 3600 * factor * (GPUS[gpu].usd_s + cores * CORE_USD_S + memory_gib * GIB_USD_S)
