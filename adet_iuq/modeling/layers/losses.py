"""Losses over many queries or cells, computed without a dense target, and the counts that they are divided by."""

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F


def dice_losses(
    logits: Tensor,
    image_index: Tensor,
    instance: Tensor,
    masks: Sequence[Tensor],
    valid: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
) -> Tensor:
    """1 - 2 sum(p g) / (sum p^2 + sum g^2 + epsilon) of every query.

    The intersections are one matrix product per image, of its queries with its distinct masks.

    Args:
        logits: (N, h, w), one map per query.
        image_index: (N,) long, the image of each query.
        instance: (N,) long, the row of each query's instance in the image's masks.
        masks: B x (K, h, w) float, the ground truth.
        valid: (B, h, w) bool, the pixels that count; None: all.
        epsilon: keeps the quotient finite; it also decides the loss on an empty mask.

    Returns:
        (N,) float32, in the order of the queries.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability = torch.sigmoid(logits.float()).flatten(1)
        if valid is not None:
            probability = probability * valid.flatten(1)[image_index]
            masks = [mask * valid[image] for image, mask in enumerate(masks)]
        squares = torch.einsum("nm,nm->n", probability, probability)
        order = torch.argsort(image_index, stable=True)
        counts = torch.bincount(image_index, minlength=len(masks)).tolist()
        intersections, areas = [], []
        for index, mask in zip(order.split(counts), masks, strict=True):
            flat = mask.flatten(1)
            products = probability[index] @ flat.T
            intersections.append(products.gather(1, instance[index, None])[:, 0])
            areas.append(flat.sum(1)[instance[index]])
        back = torch.argsort(order)
        intersection, area = torch.cat(intersections)[back], torch.cat(areas)[back]
        return 1 - 2 * intersection / (squares + area + epsilon)


def focal_loss_sum(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss (arXiv 1708.02002) over all logits.

    Every logit first counts as a negative, then the few positives are corrected. So no dense target is needed.

    Args:
        logits: float, of any shape; the loss is computed in float32.
        positive: (P,) long, flat indices (row-major) of the positives in `logits`.
        alpha: the weight of positives; negatives weigh 1 - alpha.
        gamma: the exponent.

    Returns:
        A scalar float32, which depends on `logits` even if there are no positives.
    """
    flat = logits.float().flatten()
    negative_sum = (1 - alpha) * (torch.sigmoid(flat).pow(gamma) * F.softplus(flat)).sum()
    chosen = flat[positive]
    probability = torch.sigmoid(chosen)
    as_negative = (1 - alpha) * probability.pow(gamma) * F.softplus(chosen)
    as_positive = alpha * (1 - probability).pow(gamma) * F.softplus(-chosen)
    return negative_sum + (as_positive - as_negative).sum()


def loss_count(count: Tensor | int, *, reduce: bool, device: torch.device | None = None) -> tuple[Tensor, int]:
    """The number of items that a summed loss is divided by, and a factor for the sum.

    Published losses count the items of this rank only. With `reduce` the items of all ranks count. The factor is then the
    number of ranks, which the later average over the ranks cancels: N processes train as one with the same global batch.

    Args:
        count: the number of items of this rank, at least 0, or a tensor of such numbers; an integer needs `device`.
        reduce: whether the items of all ranks count; this is a collective call, whatever the count.
        device: the device of the result; None: that of `count`.

    Returns:
        The count, of the same shape, and the factor; without `reduce` these are the count itself and 1.
    """
    count = torch.as_tensor(count, device=device)
    ranks = comm.get_world_size() if reduce else 1
    if ranks > 1:
        count = count.detach().clone()
        torch.distributed.all_reduce(count)
    return count, ranks


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a floating-point scalar over all ranks."""
    total, ranks = loss_count(value, reduce=True)
    return total / ranks
