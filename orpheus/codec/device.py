"""Choose the torch device that the codec runs on."""

from __future__ import annotations

import torch

from orpheus.errors import SetupError


def choose_device(name: str) -> str:
    """The torch device that ORPHEUS_CODEC_DEVICE names; 'auto' prefers CUDA. SetupError if there is no such device."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise SetupError(
            f"ORPHEUS_CODEC_DEVICE={name!r} is not a device: set 'auto', 'cpu', 'cuda' or 'cuda:N'."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SetupError(
            f"ORPHEUS_CODEC_DEVICE={name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA "
            "devices: set 'auto' or 'cpu'."
        )
    return name
