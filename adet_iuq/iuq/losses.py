"""Inter-scene losses on logits whose target is zero everywhere (Table 4a), their normalisers, and the ramp.

u is a logit <q_n, i'>, p = sigmoid(u) its probability. A query n may be asked about a pixel when the pixel's slot is
filled (id >= 0) and the pixel comes from another image than the query.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ElementwiseLoss = Callable[[Tensor], Tensor]
Normalizer = Callable[[Tensor, Tensor], Tensor]


def l1_loss(logits: Tensor) -> Tensor:
    """|p - 0|, elementwise."""
    return logits.sigmoid()


def l2_loss(logits: Tensor) -> Tensor:
    """(p - 0)^2, elementwise."""
    return logits.sigmoid().square()


def cross_entropy_loss(logits: Tensor) -> Tensor:
    """-log(1 - p) = softplus(u), elementwise."""
    return F.softplus(logits)


def focal_loss(logits: Tensor, *, gamma: float = 2.5, neg_weight: float = 0.9) -> Tensor:
    """neg_weight * p^gamma * softplus(u), elementwise: the focal loss of a negative.

    Args:
        logits: u, any shape.
        gamma: focusing exponent, section 3.3 of the paper.
        neg_weight: 1 - alpha in the usual convention (the paper's alpha is 0.1).
    """
    cross_entropy = F.softplus(logits)
    # p^gamma as exp(gamma log p), log p = u - softplus(u): its gradient stays finite for any gamma where p underflows.
    return neg_weight * (torch.exp(gamma * (logits - cross_entropy)) * cross_entropy)


def build_inter_loss(name: str, *, gamma: float = 2.5, neg_weight: float = 0.9) -> ElementwiseLoss:
    """The elementwise loss of that name; gamma and neg_weight belong to "focal". ValueError for an unknown name."""
    if name not in INTER_LOSSES:
        raise ValueError(f"Unknown inter-scene loss '{name}'; choose one of {', '.join(INTER_LOSSES)}.")
    if name == "focal":
        return lambda logits: focal_loss(logits, gamma=gamma, neg_weight=neg_weight)
    return INTER_LOSSES[name]


def count_images(pixel_ids: Tensor, chunk: int = 2**17) -> tuple[Tensor, Tensor]:
    """Ids of the images in a memory, ascending, and the number of pixels of each, both (images,) long.

    Args:
        pixel_ids: (P,) long, -1 for an empty slot.
        chunk: so many pixels are sorted at a time, to bound the memory that takes.
    """
    ids = counts = pixel_ids.new_zeros(0)
    for part in pixel_ids.split(chunk):
        part_ids, part_counts = torch.unique(part[part >= 0], return_counts=True)
        ids, place = torch.unique(torch.cat([ids, part_ids]), return_inverse=True)
        counts = torch.zeros_like(ids).index_add(0, place, torch.cat([counts, part_counts]))
    return ids, counts


def count_foreign(query_ids: Tensor, pixel_ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each query the number of valid pixels and of images they come from.

    Args:
        query_ids: (Q,) long, image of each query.
        pixel_ids: (P,) long, image of each pixel, -1 for an empty slot.

    Returns:
        Two (Q,) long tensors.
    """
    ids, counts = count_images(pixel_ids)
    if len(ids) == 0:
        return torch.zeros_like(query_ids), torch.zeros_like(query_ids)
    # Binary search instead of a (Q, P) comparison: the cost stays far below the loss's own.
    position = torch.searchsorted(ids, query_ids).clamp(max=len(ids) - 1)
    own = ids[position] == query_ids
    return counts.sum() - counts[position] * own, len(ids) - own.long()


def pixel_weights(query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """Mean over all valid (query, pixel) pairs: one weight for all, (Q,) float32; 0 without a valid pair."""
    pixels, _ = count_foreign(query_ids, pixel_ids)
    return torch.where(pixels > 0, 1.0 / pixels.sum().clamp(min=1), 0.0)


def image_weights(query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """Sum over the pixels of each foreign image, mean over foreign images (Eq. 5), mean over all Q queries.

    (Q,) float32; 0 for a query without a foreign image.
    """
    _, images = count_foreign(query_ids, pixel_ids)
    return torch.where(images > 0, 1.0 / (images.clamp(min=1) * max(len(query_ids), 1)), 0.0)


def ramp_weight(iteration: int, *, weight: float, start_iter: int, ramp_iters: int) -> float:
    """0 before `start_iter`, then linear up to `weight`, which is reached after `ramp_iters` iterations."""
    if iteration < start_iter:
        return 0.0
    return weight * min((iteration - start_iter + 1) / max(ramp_iters, 1), 1.0)


INTER_LOSSES: dict[str, ElementwiseLoss] = {
    "l1": l1_loss,
    "l2": l2_loss,
    "cross_entropy": cross_entropy_loss,
    "focal": focal_loss,
}
NORMALIZERS: dict[str, Normalizer] = {"pixel": pixel_weights, "image": image_weights}
