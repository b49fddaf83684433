"""Gradients → a step of the optimizer, or none if they are not finite.

One such step would make every weight NaN, and the next save would overwrite the only checkpoint with it.
"""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer


def finite_step(optimizer: Optimizer, max_norm: float = math.inf) -> bool:
    """Clip the gradients to `max_norm` and take the step. If one is not finite: False, and no weight changes."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not torch.nn.utils.clip_grad_norm_(weights, max_norm).isfinite():
        return False
    optimizer.step()
    return True
