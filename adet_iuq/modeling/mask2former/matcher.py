"""Hungarian matching of queries and targets (docs/parity/mask2former.md, "Matching").

Shapes: B images, Q queries, K_b targets of image b, R predictions (layers), P points, D channels of the mask features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.mask2former.points import PointSource, sample_bit_masks, sample_cells, uniform_points
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction

Size = tuple[int, int]
_FINITE = 1e6  # replaces a cost that is not finite, so that not the assignment fails but the loss shows what went wrong


@dataclass
class Targets:
    """What one image should be segmented into."""

    labels: Tensor  # (K,) long
    masks: Tensor  # (K, H, W) bool, the whole frame or a part of it from the top left corner on


@dataclass
class Matches:
    """sigma of one prediction: the M matched queries of the whole batch, sorted by image, then query."""

    image: Tensor  # (M,) long
    query: Tensor  # (M,) long
    target: Tensor  # (M,) long, row of the image's targets
    counts: list[int]  # the number of matches of each of B images


class HungarianMatcher:
    """Assigns one query to every target, with the lowest sum of costs.

    Args:
        class_weight: the weight of the class cost.
        mask_weight: the weight of the cross-entropy of masks.
        dice_weight: the weight of the dice cost.
        num_points: P, the number of random points; all queries and targets of an image and prediction share them.
        source: the function that draws the points.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int,
        source: PointSource = uniform_points,
    ) -> None:
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.num_points, self.source = num_points, source

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[Prediction], mask_features: Tensor, targets: Sequence[Targets], frame: Size
    ) -> list[Matches]:
        """The matches of every prediction, with a single transfer of costs to the host for all of them.

        Args:
            predictions: R predictions in float32.
            mask_features: (B, D, h, w) float32.
            targets: the targets of the B images.
            frame: (H, W) of the padded input in pixels.
        """
        costs = [
            self.costs(predictions, image, mask_features[image : image + 1], one, frame)
            for image, one in enumerate(targets)
        ]
        flat = torch.cat([cost.flatten() for cost in costs]).nan_to_num(_FINITE, _FINITE, -_FINITE).cpu()
        on_host = [
            part.view(cost.shape)
            for part, cost in zip(flat.split([cost.numel() for cost in costs]), costs, strict=True)
        ]
        device = mask_features.device
        return [_matches([cost[index] for cost in on_host], device) for index in range(len(predictions))]

    def costs(
        self, predictions: Sequence[Prediction], image: int, mask_features: Tensor, targets: Targets, frame: Size
    ) -> Tensor:
        """(R, Q, K) weighted costs of one image, whose mask features are `mask_features` (1, D, h, w)."""
        rounds, count = len(predictions), len(targets.labels)
        points = self.source(rounds, self.num_points, mask_features.device)
        wanted = sample_bit_masks(targets.masks, points.flatten(0, 1)[None], frame).view(count, rounds, self.num_points)
        size, cells = mask_features.shape[2:], mask_features[0].flatten(1).T.contiguous()  # (h w, D)
        result = []
        for index, prediction in enumerate(predictions):
            logits = _logits(cells, (size[0], size[1]), prediction.embeddings[image], points[index])
            target = wanted[:, index]
            # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t
            mask_cost = (F.softplus(logits).sum(0) - target @ logits) / self.num_points
            probability = logits.sigmoid()
            overlap = 2 * (target @ probability) + 1
            dice_cost = 1 - overlap / (probability.sum(0) + target.sum(1, keepdim=True) + 1)
            class_cost = -prediction.logits[image].softmax(-1)[:, targets.labels]
            mask_costs = self.mask_weight * mask_cost + self.dice_weight * dice_cost
            result.append(mask_costs.T + self.class_weight * class_cost)
        return torch.stack(result)


def _logits(cells: Tensor, size: Size, embeddings: Tensor, points: Tensor) -> Tensor:
    """The logits (P, Q) of all queries (Q, D) at points (P, 2) of the mask features (h * w, D).

    Sampling is linear, so it may come before the product with the embeddings, or after it. The first is less to compute if
    the map has more cells than there are points.
    """
    if len(cells) > len(points):
        return sample_cells(cells, size, points) @ embeddings.T
    return sample_cells(cells @ embeddings.T, size, points)


def _matches(costs: Sequence[Tensor], device: torch.device) -> Matches:
    """The assignment of one prediction, from the costs (Q, K_b) of the B images, which are on the host."""
    images, queries, wanted, counts = [], [], [], []
    for index, cost in enumerate(costs):
        rows, columns = (torch.as_tensor(part, dtype=torch.long) for part in linear_sum_assignment(cost.numpy()))
        images.append(torch.full_like(rows, index))
        queries.append(rows)
        wanted.append(columns)
        counts.append(len(rows))
    image, query, target = (torch.cat(parts).to(device) for parts in (images, queries, wanted))
    return Matches(image, query, target, counts)
