"""The losses of FCOS (docs/parity/condinst.md, "Losses").

P is the number of positives of this rank; distances are left, top, right, bottom in units of the level's stride.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers import reduce_mean


def centerness_targets(targets: Tensor) -> Tensor:
    """(P,) in [0, 1] from (P, 4) distances: 1 at the box's centre, 0 on its sides."""
    horizontal, vertical = targets[:, [0, 2]], targets[:, [1, 3]]
    ratio = horizontal.amin(1) / horizontal.amax(1) * (vertical.amin(1) / vertical.amax(1))
    return ratio.clamp(min=0).sqrt()


def box_ious(predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU, (P,) each, of two boxes that are given by their distances to one common point.

    The published form adds 1 (a squared stride) to both parts of the IoU, and nothing to the hull term.
    """
    low, high = torch.minimum(predicted, targets), torch.maximum(predicted, targets)
    intersection, hull = _area(low), _area(high)
    union = _area(predicted) + _area(targets) - intersection
    iou = (intersection + 1) / (union + 1)
    return iou, iou - (hull - union) / hull


def _area(distances: Tensor) -> Tensor:
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])


def location_loss(iou: Tensor, giou: Tensor, kind: str) -> Tensor:
    """The loss (P,) of each box; kind is "iou", "linear_iou" or "giou"."""
    if kind == "giou":
        return 1 - giou
    return -iou.log() if kind == "iou" else 1 - iou


def box_losses(
    regression: Tensor, quality: Tensor, targets: Tensor, positive_mean: Tensor, kind: str, box_quality: str
) -> dict[str, Tensor]:
    """The location loss and the loss of the quality branch.

    Args:
        regression: (P, 4) predicted distances.
        quality: (P,) logits of the quality branch.
        targets: (P, 4) true distances.
        positive_mean: scalar, the mean number of positives over the ranks, above 0.
        kind: "iou", "linear_iou" or "giou".
        box_quality: "ctrness": centerness weighs the boxes; "iou": boxes weigh the same, and the branch predicts the IoU.

    Returns:
        `loss_fcos_loc` and `loss_fcos_ctr` or `loss_fcos_iou`; connected zeros if there are no positives.
    """
    iou, giou = box_ious(regression.float(), targets)
    losses = location_loss(iou, giou, kind)
    quality = quality.float()
    if box_quality == "ctrness":
        weights = centerness_targets(targets)
        total = reduce_mean(weights.sum()).clamp(min=1e-6)
        centerness = F.binary_cross_entropy_with_logits(quality, weights, reduction="sum")
        return {"loss_fcos_loc": (losses * weights).sum() / total, "loss_fcos_ctr": centerness / positive_mean}
    overlap = F.binary_cross_entropy_with_logits(quality, iou.detach(), reduction="sum")
    return {"loss_fcos_loc": losses.sum() / positive_mean, "loss_fcos_iou": overlap / positive_mean}
