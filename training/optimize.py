"""Gradients → a step of the optimizer, or none where they are not numbers.

Knows nothing of what is learned. One such step would make every weight NaN, and the next save would replace the only
checkpoint with it.
"""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer


def finite_step(optimizer: Optimizer, max_norm: float = math.inf) -> bool:
    """Clip the gradients to `max_norm` and take the step. False, and no weight changed, where one is not finite."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not torch.nn.utils.clip_grad_norm_(weights, max_norm).isfinite():
        return False
    optimizer.step()
    return True
