"""ORPHEUS_CODEC_DEVICE and ORPHEUS_CODEC_THREADS → a torch device that exists, and torch's thread count.

Knows nothing of the decoder.
"""

from __future__ import annotations

import os

import torch

from orpheus.errors import SetupError


def choose_device(name: str) -> str:
    """'auto' → 'cuda' where there is one, else 'cpu'. SetupError for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise SetupError(
            f"ORPHEUS_CODEC_DEVICE={name!r} is no device: set 'auto', 'cpu', 'cuda' or 'cuda:N'."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SetupError(
            f"ORPHEUS_CODEC_DEVICE={name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA "
            "devices: set 'auto' or 'cpu'."
        )
    return name


def set_threads(count: int | None) -> int:
    """Set torch's threads for this process, its CPU steps all run on; → how many.

    Unset: half of the cores this process may use. llama.cpp takes the other half: it stalls when its threads share
    cores, since each of its layers waits for the slowest. torch has one count for the whole process; nothing else in
    tier 2 computes with torch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count or max(1, cores // 2))
    return torch.get_num_threads()
