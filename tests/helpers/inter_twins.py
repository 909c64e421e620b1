"""Slow, obvious twins of what `adet_iuq.iuq.inter_scene` computes: ordinary autograd, all pairs at once."""

import torch
import torch.nn.functional as F
from torch import Tensor


def slow_loss(name: str, logits: Tensor, *, gamma: float = 2.5, neg_weight: float = 0.1) -> Tensor:
    """The elementwise losses with target zero (Table 4a), differentiable."""
    if name == "l1":
        return logits.sigmoid()
    if name == "l2":
        return logits.sigmoid().square()
    cross_entropy = F.softplus(logits)
    if name == "cross_entropy":
        return cross_entropy
    # p^gamma as exp(gamma log p), log p = u - softplus(u): finite for any gamma where p underflows.
    return neg_weight * (torch.exp(gamma * (logits - cross_entropy)) * cross_entropy)


def slow_value_and_slope(name: str, logits: Tensor, *, gamma: float = 2.5) -> tuple[Tensor, Tensor]:
    """The slope by autograd."""
    point = logits.detach().requires_grad_()
    value = slow_loss(name, point, gamma=gamma)
    return value.detach(), torch.autograd.grad(value.sum(), point)[0]


def slow_weights(normalizer: str, query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """The weight of each query's sum, from the table of all pairs, (Q,)."""
    foreign = (query_ids[:, None] != pixel_ids[None]) & (pixel_ids >= 0)[None]
    if normalizer == "pixel":
        return foreign.any(dim=1) / foreign.sum().clamp(min=1)
    images = [len(pixel_ids[row].unique()) for row in foreign]
    return torch.tensor([1 / count / len(query_ids) if count else 0.0 for count in images])


def slow_inter_loss(
    logits: Tensor, query_ids: Tensor, pixel_ids: Tensor, *, loss: str = "focal", normalizer: str = "pixel"
) -> Tensor:
    """Eq. 5 of all logits (Q, P), differentiable."""
    foreign = (pixel_ids >= 0)[None] & (query_ids[:, None] != pixel_ids[None])
    weights = slow_weights(normalizer, query_ids, pixel_ids)[:, None] * foreign
    return (slow_loss(loss, logits) * weights).sum()
