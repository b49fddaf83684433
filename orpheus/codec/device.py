"""Choose the torch device that the codec runs on."""

from __future__ import annotations

import logging

import torch

from orpheus.errors import SetupError

log = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """The torch device that ORPHEUS_CODEC_DEVICE names; 'auto' prefers CUDA. SetupError if there is no such device."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        if torch.cuda.device_count():  # counted by the driver, which torch cannot use
            log.warning(
                "The codec runs on the CPU: this torch, built for CUDA %s, cannot use the GPU here. Update the driver.",
                torch.version.cuda,
            )
        return "cpu"
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
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # a driver that is too old, or a GPU that another process holds
        reason = str(error).split("\n", 1)[0]
        raise SetupError(
            f"ORPHEUS_CODEC_DEVICE={name!r} cannot be used ({reason}): update the driver, or set 'cpu'."
        ) from error
    return name
