"""Sigmoid focal loss for one-hot targets that are never written out."""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss_sum(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss (arXiv 1708.02002) over all logits.

    Every logit is taken as a negative first; the few positives are then exchanged. This needs no dense target.

    Args:
        logits: any shape, float; computed in float32.
        positive: (P,) long, flat indices (row-major) of the positives in `logits`.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: exponent.

    Returns:
        Scalar float32, connected to `logits` also without positives.
    """
    flat = logits.float().flatten()
    negative_sum = (1 - alpha) * (torch.sigmoid(flat).pow(gamma) * F.softplus(flat)).sum()
    chosen = flat[positive]
    probability = torch.sigmoid(chosen)
    as_negative = (1 - alpha) * probability.pow(gamma) * F.softplus(chosen)
    as_positive = alpha * (1 - probability).pow(gamma) * F.softplus(-chosen)
    return negative_sum + (as_positive - as_negative).sum()
