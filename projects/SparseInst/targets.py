"""The targets of the losses: masks at stride 4, and the query for each instance (docs/parity/sparseinst.md, "Training").

Shapes: B images, N queries, K instances of one image, S matched pairs of the batch, (h, w) the mask logits at stride 4, P of
their pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers import pair_rows

DICE_EPSILON = 1e-4


@dataclass
class Targets:
    """What one image should be segmented into."""

    labels: Tensor  # (K,) long
    masks: Tensor  # (K, h, w) float32


@dataclass
class Matches:
    """sigma: the matched queries of the whole batch, sorted by image, then query."""

    image: Tensor  # (S,) long
    query: Tensor  # (S,) long
    target: Tensor  # (S,) long, row of the image's targets
    counts: list[int]  # the number of matches of each of B images


def soft_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks at a quarter of the padded input's size, with values 0, 1/4, ... 1; thin instances can vanish.

    A bilinear resize to a quarter reads the four pixels in the middle of 4 x 4 pixels, and no others. These few lines
    do the same, and need neither a float copy nor a padded copy of the masks.

    Args:
        masks: (K, H, W) bool, from the padded input's top left corner on.
        size: (h, w) of the result.

    Returns:
        (K, h, w) float32.
    """
    total = torch.zeros(len(masks), *size, device=masks.device)
    for row, column in ((1, 1), (1, 2), (2, 1), (2, 2)):
        read = masks[:, row::4, column::4]
        total[:, : read.shape[1], : read.shape[2]] += read
    return total / 4


def of_pairs(values: Sequence[Tensor], image: Tensor, target: Tensor) -> Tensor:
    """For every pair, the row `target` (S,) of the tensor number `image` (S,) among B tensors (K, ...)."""
    return torch.cat(list(values))[pair_rows([len(one) for one in values], image, target)]


def dice_scores(probabilities: Tensor, targets: Tensor) -> Tensor:
    """(N, K) dice coefficients of (N, P) and (K, P), both between 0 and 1."""
    squares = probabilities.square().sum(1)[:, None] + targets.square().sum(1)
    return 2 * (probabilities @ targets.T) / (squares + DICE_EPSILON)


@dataclass(frozen=True)
class Matcher:
    """Assigns one query to each instance, with the largest sum of dice^alpha * (class probability)^beta."""

    alpha: float
    beta: float

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, mask_logits: Iterable[Tensor], targets: Sequence[Targets]) -> Matches:
        """The matches of a batch, computed in float32, with a single transfer to the host for all of them.

        Args:
            class_logits: (B, N, C).
            mask_logits: B x (N, h, w), of which only one image's need exist at a time.
            targets: the targets of the B images; some or all may have no instance.
        """
        scores = [
            self.scores(logits.float(), masks.float(), one)
            for logits, masks, one in zip(class_logits, mask_logits, targets, strict=True)
        ]
        # A score that is not finite counts as the worst, so that not
        # the assignment fails but the loss shows what went wrong.
        flat = torch.cat([one.flatten() for one in scores]).nan_to_num(0.0).cpu()
        parts = flat.split([one.numel() for one in scores])
        pairs = [
            torch.from_numpy(np.stack(linear_sum_assignment(part.view(one.shape).numpy(), maximize=True))).long()
            for part, one in zip(parts, scores, strict=True)
        ]
        image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(pairs)])
        query, target = torch.cat(pairs, dim=1)
        device = class_logits.device
        return Matches(image.to(device), query.to(device), target.to(device), [pair.shape[1] for pair in pairs])

    def scores(self, class_logits: Tensor, mask_logits: Tensor, targets: Targets) -> Tensor:
        """The scores (N, K) of one image."""
        dice = dice_scores(mask_logits.flatten(1).sigmoid(), targets.masks.flatten(1))
        return dice**self.alpha * class_logits.sigmoid()[:, targets.labels] ** self.beta


def enlarged(maps: Tensor) -> Tensor:
    """(S, h, w) at stride 8 to (S, 2 h, 2 w) at stride 4, bilinear."""
    return F.interpolate(maps[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
