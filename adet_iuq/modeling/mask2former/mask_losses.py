"""Losses of N masks on P points each. Every function takes logits and targets (N, P) and returns one number per mask (N,).

`valid` (N, P) bool names the points that count; the loss of a mask without a valid point is zero.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the points."""
    return _mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"), valid)


def focal(logits: Tensor, targets: Tensor, alpha: float, gamma: float, valid: Tensor | None = None) -> Tensor:
    """Mean focal loss (arXiv 1708.02002) over the points; a target between 0 and 1 mixes the two cases."""
    probability = logits.sigmoid()
    inside = alpha * (1 - probability).pow(gamma) * F.softplus(-logits)
    outside = (1 - alpha) * probability.pow(gamma) * F.softplus(logits)
    return _mean(targets * inside + (1 - targets) * outside, valid)


def dice(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)."""
    probability = logits.sigmoid()
    if valid is not None:
        probability, targets = probability * valid, targets * valid
    intersection = (probability * targets).sum(1)
    return 1 - (2 * intersection + 1) / (probability.sum(1) + targets.sum(1) + 1)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return values.mean(1)
    return torch.where(valid, values, 0.0).sum(1) / valid.sum(1).clamp(min=1)
