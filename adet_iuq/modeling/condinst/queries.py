"""Selects the training queries among FCOS's positives: the two limits of the published model."""

import torch
from torch import Tensor

from adet_iuq.modeling.condinst.fcos_targets import Positives


def random_cap(count: int, limit: int, device: torch.device) -> Tensor:
    """Indices of `limit` of `count` queries, drawn at random; all in order if there are no more, or if limit is -1."""
    if limit < 0 or count <= limit:
        return torch.arange(count, device=device)
    return torch.randperm(count, device=device)[:limit]


def top_scores(positives: Positives, scores: Tensor, per_image: int) -> Tensor:
    """The best queries of every instance, with the same number for each.

    Args:
        positives: the P positives.
        scores: (P,), the confidence of each positive.
        per_image: T; an instance keeps max(T // instances with positives in its image, 1) queries.

    Returns:
        The indices of the queries that are kept, ordered by image, instance and falling score.
    """
    stride = int(positives.instance.max()) + 1 if len(positives) else 1
    key = positives.image * stride + positives.instance
    order = scores.argsort(descending=True)
    order = order[key[order].argsort(stable=True)]
    groups, counts = torch.unique_consecutive(key[order], return_counts=True)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    image = torch.div(groups, stride, rounding_mode="floor")
    present = torch.bincount(image)[image]
    quota = torch.div(per_image, present, rounding_mode="floor").clamp(min=1)
    return order[rank < quota.repeat_interleave(counts)]
