"""Hungarian matching of queries and instances by class and box, without masks (docs/parity/solq.md, "Training").

Shapes: B images, N queries, K_b instances of image b, D decoder layers, Z logits, n coefficients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import corners, generalised_iou

_FINITE = 1e6  # replaces a cost that is not finite, so that not the assignment fails but the loss shows what went wrong


@dataclass
class Outputs:
    """The outputs of the heads after every decoder layer."""

    logits: Tensor  # (D, B, N, Z)
    boxes: Tensor  # (D, B, N, 4) x, y, w, h as shares of the image
    vectors: Tensor  # (D, B, N, n)


@dataclass
class Targets:
    """The instances of one image."""

    labels: Tensor  # (K,) long, numbers of logits
    boxes: Tensor  # (K, 4), as in Outputs
    vectors: Tensor  # (K, n)


@dataclass
class Matches:
    """sigma after one layer: the M matched queries of the whole batch, sorted by image, then query."""

    image: Tensor  # (M,) long
    query: Tensor  # (M,) long
    target: Tensor  # (M,) long, row of the image's targets


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of losses and costs; the names are those of MODEL.SOLQ."""

    class_weight: float
    box_weight: float
    giou_weight: float
    vector_weight: float


@torch.no_grad()
def match(outputs: Outputs, targets: Sequence[Targets], weights: Weights) -> list[Matches]:
    """The matches after each layer, with the lowest sum of costs, and a single transfer to the host for all of them."""
    costs = [
        matching_costs(outputs.logits[:, image], outputs.boxes[:, image], one, weights)
        for image, one in enumerate(targets)
    ]
    flat = torch.cat([cost.flatten() for cost in costs]).nan_to_num(_FINITE, _FINITE, -_FINITE).cpu()
    parts = flat.split([cost.numel() for cost in costs])
    on_host = [part.view(cost.shape) for part, cost in zip(parts, costs, strict=True)]
    device = outputs.logits.device
    return [_assign([cost[layer] for cost in on_host], device) for layer in range(len(outputs.logits))]


def matching_costs(logits: Tensor, boxes: Tensor, targets: Targets, weights: Weights) -> Tensor:
    """(D, N, K) weighted costs of one image's logits (D, N, Z) and boxes (D, N, 4); in float32."""
    p = logits.float().sigmoid()[..., targets.labels]
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    boxes = boxes.float()
    distance = (boxes[:, :, None] - targets.boxes).abs().sum(-1)
    overlap = generalised_iou(corners(boxes)[:, :, None], corners(targets.boxes))
    class_cost = weights.class_weight * (positive - negative)
    return class_cost + weights.box_weight * distance - weights.giou_weight * overlap


def _assign(costs: Sequence[Tensor], device: torch.device) -> Matches:
    """The assignment after one layer, from costs (N, K_b) of the B images on the host."""
    rows = [torch.zeros(3, 0, dtype=torch.long)]
    for image, cost in enumerate(costs):
        query, target = (torch.as_tensor(part, dtype=torch.long) for part in linear_sum_assignment(cost.numpy()))
        rows.append(torch.stack([torch.full_like(query, image), query, target]))
    return Matches(*torch.cat(rows, dim=1).to(device))
