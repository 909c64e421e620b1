"""Hungarian matching of queries and targets (docs/parity/mask2former.md, "Matching").

Shapes: B images, Q queries, K_b targets of image b, R predictions (layers), P points, D channels of the mask features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers import items_at_once
from adet_iuq.modeling.mask2former.points import PointSource, sample_bit_masks, sample_cells, uniform_points

Size = tuple[int, int]

# Bytes of mask logits that exist at one time. On a CPU they are always those of one prediction, which its cache holds best.
_CHUNK_BYTES = {"cpu": 0}
_FINITE = 1e6  # replaces a cost that is not finite, so that not the assignment fails but the loss shows what went wrong


@dataclass
class Targets:
    """What one image should be segmented into."""

    labels: Tensor  # (K,) long
    masks: Tensor  # (K, H, W) bool, the whole frame or a part of it from the top left corner on


@dataclass
class Matches:
    """sigma of R predictions. Each matches as many queries of an image as the others, and M in the whole batch."""

    image: Tensor  # (M,) long, ascending
    query: Tensor  # (R, M) long, ascending within an image
    target: Tensor  # (R, M) long, row of the image's targets
    counts: list[int]  # the number of matches of each of B images; they add up to M

    def __len__(self) -> int:
        return len(self.query)

    @property
    def place(self) -> tuple[Tensor, Tensor, Tensor]:
        """The places (R, M) of the matched queries in a tensor (R, B, Q, ...)."""
        prediction = torch.arange(len(self), device=self.query.device)[:, None]
        return prediction.expand_as(self.query), self.image.expand_as(self.query), self.query

    def last(self, number: int) -> "Matches":
        """Those of the last predictions only."""
        return Matches(self.image, self.query[-number:], self.target[-number:], self.counts)

    def by_image(self, values: Tensor) -> Tensor:
        """(R * M, ...), values (R, M, ...) ordered by image, then prediction, then query."""
        return torch.cat([part.flatten(0, 1) for part in values.split(self.counts, dim=1)])

    def sums(self, values: Tensor) -> Tensor:
        """(R,), the sums over the queries of each prediction, of values (R * M,) that are ordered as in `by_image`."""
        parts = values.split([len(self) * count for count in self.counts])
        return torch.stack([part.view(len(self), -1).sum(1) for part in parts]).sum(0)


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
        self, logits: Tensor, embeddings: Tensor, mask_features: Tensor, targets: Sequence[Targets], frame: Size
    ) -> Matches:
        """The matches of all predictions, with one transfer of costs to the host, and one of matches from it.

        Args:
            logits: (R, B, Q, classes + 1) float32.
            embeddings: (R, B, Q, D) float32.
            mask_features: (B, D, h, w) float32.
            targets: the targets of the B images.
            frame: (H, W) of the padded input in pixels.
        """
        costs = [
            self.costs(logits[:, image], embeddings[:, image], mask_features[image], one, frame)
            for image, one in enumerate(targets)
        ]
        flat = torch.cat([cost.flatten() for cost in costs]).nan_to_num(_FINITE, _FINITE, -_FINITE).cpu()
        parts = flat.split([cost.numel() for cost in costs])
        found = [_assignments(part.view(cost.shape)) for part, cost in zip(parts, costs, strict=True)]
        counts = [one.shape[2] for one in found]
        image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        together = torch.cat([image[None], torch.cat(found, dim=2).flatten(0, 1)]).to(mask_features.device)
        query, target = together[1:].chunk(2)
        return Matches(together[0], query, target, counts)

    def costs(self, logits: Tensor, embeddings: Tensor, mask_features: Tensor, targets: Targets, frame: Size) -> Tensor:
        """(R, Q, K) weighted costs of one image.

        Args:
            logits: (R, Q, classes + 1).
            embeddings: (R, Q, D).
            mask_features: (D, h, w).
            targets: the K targets of the image.
            frame: (H, W) of the padded input in pixels.
        """
        points = self.source(len(logits), self.num_points, mask_features.device)
        cells, size = mask_features.flatten(1).T.contiguous(), (mask_features.shape[1], mask_features.shape[2])
        step = items_at_once(_CHUNK_BYTES, cells.device, 4 * self.num_points * max(embeddings.shape[1:]))
        mask_costs = []
        for queries, at in zip(embeddings.split(step), points.split(step), strict=True):
            wanted = sample_bit_masks(targets.masks, at.flatten(0, 1)[None], frame)
            wanted = wanted.view(-1, len(at), self.num_points).transpose(0, 1)
            mask_costs.append(self._mask_costs(_mask_logits(cells, size, queries, at), wanted))
        return torch.cat(mask_costs) - self.class_weight * logits.softmax(-1)[..., targets.labels]

    def _mask_costs(self, masks: Tensor, wanted: Tensor) -> Tensor:
        """(R, Q, K) costs of mask logits (R, P, Q) at points where the targets are `wanted` (R, K, P)."""
        # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t
        mask_cost = (F.softplus(masks).sum(1, keepdim=True) - wanted @ masks) / self.num_points
        probability = masks.sigmoid()
        overlap = 2 * (wanted @ probability) + 1
        dice_cost = 1 - overlap / (probability.sum(1, keepdim=True) + wanted.sum(2, keepdim=True) + 1)
        return (self.mask_weight * mask_cost + self.dice_weight * dice_cost).mT


def _mask_logits(cells: Tensor, size: Size, embeddings: Tensor, points: Tensor) -> Tensor:
    """The logits (R, P, Q) of queries (R, Q, D) at points (R, P, 2) of the mask features (h * w, D).

    Sampling is linear, so it may come before the product with the embeddings, or after it. The first is less to compute if
    the map has more cells than there are points.
    """
    if len(cells) > points.shape[1]:
        pixels = sample_cells(cells[None], size, points.flatten(0, 1)[None])  # (1, R P, D)
        return pixels.view(*points.shape[:2], -1) @ embeddings.mT
    return sample_cells(cells @ embeddings.mT, size, points)


def _assignments(costs: Tensor) -> Tensor:
    """The matched queries and their targets, (2, R, min(Q, K)) long, from costs (R, Q, K) on the host."""
    pairs = [np.stack(linear_sum_assignment(cost)) for cost in costs.numpy()]
    return torch.from_numpy(np.stack(pairs, axis=1))
