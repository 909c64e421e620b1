"""SOLQ's losses: classes of all queries, boxes and mask vectors of the matched ones, after every decoder layer.

Shapes: as in `matcher.py`; M matched queries of a layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from adet_iuq.modeling.layers import focal_loss_sum, loss_count, pair_rows, reduce_mean

from .boxes import corners, generalised_iou
from .matcher import Matches, Outputs, Targets, Weights


def set_losses(
    outputs: Outputs, targets: Sequence[Targets], matches: Sequence[Matches], weights: Weights, *, reduce: bool
) -> dict[str, Tensor]:
    """The weighted losses. Those of the last layer have plain names, those of layer i have the suffix _i.

    Args:
        outputs: the outputs for a batch, with logits and boxes after each layer.
        targets: the targets of the batch.
        matches: the matches after each layer.
        weights: the weights of the losses.
        reduce: whether pairs and targets are counted as one process with the global batch counts them. As published, all
            losses but that of vectors are divided by the mean number of pairs of all processes, which is at least 1.
    """
    suffixes = [f"_{layer}" for layer in range(len(matches) - 1)] + [""]
    pairs = torch.tensor(float(len(matches[-1].image)), device=outputs.logits.device)
    if reduce:
        total, ranks = loss_count(pairs, reduce=True)
        count = total.clamp(min=1) / ranks
    else:
        count = reduce_mean(pairs).clamp(min=1)
    losses: dict[str, Tensor] = {}
    for layer, (match, suffix) in enumerate(zip(matches, suffixes, strict=True)):
        labels, boxes, vectors = _matched_targets(targets, match)
        place = (match.image, match.query)
        found = outputs.boxes[layer][place].float()
        logits = outputs.logits[layer]
        positive = (match.image * logits.shape[1] + match.query) * logits.shape[2] + labels
        class_loss = focal_loss_sum(logits, positive, alpha=0.25, gamma=2.0)
        losses[f"loss_ce{suffix}"] = weights.class_weight * class_loss / count
        losses[f"loss_bbox{suffix}"] = weights.box_weight * (found - boxes).abs().sum() / count
        overlap = generalised_iou(corners(found), corners(boxes))
        losses[f"loss_giou{suffix}"] = weights.giou_weight * (1 - overlap).sum() / count
        vector_loss = vector_difference(outputs.vectors[layer][place].float(), vectors, reduce=reduce)
        losses[f"loss_vector{suffix}"] = weights.vector_weight * vector_loss
    return losses


def vector_difference(found: Tensor, wanted: Tensor, *, reduce: bool) -> Tensor:
    """The mean absolute difference of vectors (M, n); a connected zero if there are none."""
    count, ranks = loss_count(found.numel(), reduce=reduce, device=found.device)
    return (found - wanted).abs().sum() * ranks / count.clamp(min=1)


def _matched_targets(targets: Sequence[Targets], match: Matches) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (M,), boxes (M, 4) and vectors (M, n) of the matched instances."""
    rows = pair_rows([len(one.labels) for one in targets], match.image, match.target)
    labels, boxes, vectors = (
        torch.cat([one.labels for one in targets]),
        torch.cat([one.boxes for one in targets]),
        torch.cat([one.vectors for one in targets]),
    )
    return labels[rows], boxes[rows], vectors[rows]
