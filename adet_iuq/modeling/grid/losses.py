"""The losses of grid segmenters (docs/parity/solov2.md, "Losses") and <q, I> of the paper's Eq. 4 for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adet_iuq.modeling.grid.quarter_masks import quarter_masks
from adet_iuq.modeling.layers.dot_product import dot_product_maps
from adet_iuq.modeling.layers.losses import dice_losses, focal_loss_sum, loss_count

DICE_EPSILON = 2e-3  # 0.001 is added to each of the two sums of squares


@dataclass(frozen=True)
class GridLossSettings:
    """Alpha and gamma of the classes' focal loss, the weights of both losses, and whether the ranks count together."""

    focal_alpha: float
    focal_gamma: float
    class_weight: float
    mask_weight: float
    reduce_normalizer: bool = False


def mask_logits(kernels: Tensor, image_index: Tensor, features: Tensor) -> Tensor:
    """The logits of every query on all cells of its own image's map, in at least float32 even under autocast.

    Args:
        kernels: (P, D), the queries.
        image_index: (P,) long, the image of each query.
        features: (B, D, h, w), the dense maps.

    Returns:
        (P, h, w) logits, in the order of the queries.
    """
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        return dot_product_maps(kernels.to(dtype), image_index, features.to(dtype))


def mask_loss(
    logits: Tensor,
    image_index: Tensor,
    instance: Tensor,
    masks: Sequence[Tensor],
    valid: Tensor | None = None,
    *,
    reduce: bool = False,
) -> Tensor:
    """Mean dice loss over the queries; a connected zero if there are none.

    Args:
        logits: (P, Hf, Wf), one map per query.
        image_index: (P,) long, the image of each query.
        instance: (P,) long, the row of each query's instance in the image's masks.
        masks: B x (K, h, w) bool at the network input's resolution, not padded.
        valid: (B, Hf, Wf) bool, the cells that count; None: all.
        reduce: whether the mean is taken over the queries of all ranks.
    """
    size = (logits.shape[1], logits.shape[2])
    small = [quarter_masks(mask, size) for mask in masks]
    losses = dice_losses(logits, image_index, instance, small, valid, epsilon=DICE_EPSILON)
    count, factor = loss_count(len(losses), reduce=reduce, device=losses.device)
    return losses.sum() * factor / count.clamp(min=1)


def class_loss(
    class_logits: Sequence[Tensor], labels: Tensor, alpha: float, gamma: float, *, reduce: bool = False
) -> Tensor:
    """The focal loss, summed over cells and classes and divided by one more than the number of positive cells.

    Args:
        class_logits: L x (B, C, S_l, S_l).
        labels: (B, N) long, the cells' classes level by level; C for a cell without an instance.
        alpha: the weight of positives in the focal loss.
        gamma: the exponent of the focal loss.
        reduce: whether the positive cells of all ranks are counted.
    """
    total = torch.zeros((), device=labels.device)
    num_positive = 0
    counts = [logits[0, 0].numel() for logits in class_logits]
    for logits, label in zip(class_logits, labels.split(counts, dim=1), strict=True):
        num_classes = logits.shape[1]
        image, cell = torch.nonzero(label < num_classes, as_tuple=True)
        index = (image * num_classes + label[image, cell]) * label.shape[1] + cell
        total = total + focal_loss_sum(logits, index, alpha, gamma)
        num_positive += len(cell)
    count, factor = loss_count(num_positive, reduce=reduce, device=labels.device)
    return total * factor / (count + 1)
