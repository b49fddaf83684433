"""Weights of a network's weight-normed layers that are set by hand and stay fixed while the rest is trained.

Call within torch.no_grad().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Held:
    """What learning must leave alone: a mask for each parameter, True for what stays."""

    masks: dict[Tensor, Tensor]

    def hold(self, parameter: Tensor, *position: int | slice) -> None:
        self.masks.setdefault(parameter, torch.zeros_like(parameter, dtype=torch.bool))[position] = True

    def guard(self) -> None:
        """From now on no gradient reaches the fixed weights."""
        for parameter, mask in self.masks.items():
            parameter.register_hook(_sparing(mask))


def _sparing(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.masked_fill(mask.to(gradient.device), 0.0)


def set_rows(layer: Any, weight: Tensor, rows: int, held: Held) -> None:
    """Give a weight-normed layer this weight, its first `rows` outputs for good."""
    norm, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    sizes = weight.flatten(1).norm(dim=1)
    norm.copy_(sizes.reshape(norm.shape))
    direction[sizes > 0] = weight[sizes > 0]  # a row of nothing has no direction: it keeps the one it had
    held.hold(norm, slice(0, rows))
    held.hold(direction, slice(0, rows))


def set_inputs(up: Any, kernels: dict[int, Tensor], held: Held) -> None:
    """The same for inputs of a transposed convolution, whose norms are by input."""
    norm, direction = up.parametrizations.weight.original0, up.parametrizations.weight.original1
    for position, kernel in kernels.items():
        norm[position] = kernel.norm()
        if kernel.any():
            direction[position] = kernel
        held.hold(norm, position)
        held.hold(direction, position)


def clear_outputs(up: Any, after: int, outputs: int, held: Held) -> None:
    """Inputs from `after` on add nothing to the first `outputs`, nor does a bias."""
    norm, direction = up.parametrizations.weight.original0, up.parametrizations.weight.original1
    weight = up.weight[after:].clone()
    weight[:, :outputs] = 0
    norm[after:] = weight.flatten(1).norm(dim=1).reshape(norm[after:].shape)
    direction[after:] = weight
    up.bias[:outputs] = 0
    held.hold(direction, slice(after, None), slice(0, outputs))
    held.hold(up.bias, slice(0, outputs))
