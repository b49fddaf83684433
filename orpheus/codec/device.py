"""Choose the torch device that the codec runs on."""

from __future__ import annotations

import logging

import torch

from orpheus.errors import SetupError

log = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """The torch device that ORPHEUS_CODEC_DEVICE names; 'auto' prefers CUDA. SetupError if there is no such device."""
    if name == "auto":
        if torch.cuda.device_count() == 0:  # counted by the driver, whether torch can use them or not
            return "cpu"
        if (reason := _fault("cuda")) is None:
            return "cuda"
        log.warning(
            "The codec runs on the CPU: this torch, built for CUDA %s, cannot use the GPU here (%s). Update the driver, "
            "or install a torch made for this card.",
            torch.version.cuda,
            reason,
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
    if reason := _fault(name):
        raise SetupError(
            f"ORPHEUS_CODEC_DEVICE={name!r} cannot be used ({reason}): update the driver, or set 'cpu'."
        )
    return name


def _fault(name: str) -> str | None:
    """Why `name` computes nothing: an old driver, a card this torch has no code for, one that another process holds."""
    try:
        (torch.ones(1, device=name) + 1).cpu()
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        return str(error).split("\n", 1)[0]
    return None
