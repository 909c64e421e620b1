"""Dice loss of many queries against few distinct masks, without a mask per query."""

from collections.abc import Sequence

import torch
from torch import Tensor


def dice_losses(
    logits: Tensor,
    image_index: Tensor,
    instance: Tensor,
    masks: Sequence[Tensor],
    valid: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
) -> Tensor:
    """1 - 2 sum(p g) / (sum p^2 + sum g^2 + epsilon) of every query (parity spec of CondInst, section 6; SOLOv2, 5).

    Intersections are one matrix product an image, of its queries with its distinct masks.

    Args:
        logits: (N, h, w).
        image_index: (N,) long.
        instance: (N,) long, row of the image's masks.
        masks: B x (K, h, w) float.
        valid: (B, h, w) bool, pixels that count; None: all.
        epsilon: keeps the quotient finite; it decides what an empty mask costs.

    Returns:
        (N,) float32 in the order of the queries.
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
