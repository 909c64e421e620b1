"""SparseInst's four losses (docs/parity/sparseinst.md, "Training"). Shapes: as in `targets.py`; C classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers import focal_loss_sum, loss_count, reduce_mean

from .targets import DICE_EPSILON, Matches, Targets, of_pairs

# The probability from which a pixel counts for the IoU that objectness learns (at inference masks have another threshold).
IOU_PROBABILITY = 0.4


def pixel_losses(logits: Tensor, wanted: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy (S,) of masks and targets (S, h, w) over all pixels, or over those in `valid` (bool)."""
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").flatten(1)
    if valid is None:
        return loss.mean(1)
    inside = valid.flatten(1)
    return torch.where(inside, loss, 0.0).sum(1) / inside.sum(1).clamp(min=1)


def dice_losses(logits: Tensor, wanted: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - 2 <s, t> / (|s|^2 + |t|^2 + epsilon), (S,), of masks and soft targets (S, h, w); pixels outside `valid` are 0."""
    found, wanted = logits.sigmoid().flatten(1), wanted.flatten(1)
    if valid is not None:
        found, wanted = found * valid.flatten(1), wanted * valid.flatten(1)
    squares = found.square().sum(1) + wanted.square().sum(1)
    return 1 - 2 * (found * wanted).sum(1) / (squares + DICE_EPSILON)


@torch.no_grad()
def mask_ious(logits: Tensor, wanted: Tensor) -> Tensor:
    """(S,) the IoU of masks and targets (S, h, w), both made binary; objectness should predict it."""
    found, wanted = (logits.sigmoid() >= IOU_PROBABILITY).flatten(1), (wanted > 0.5).flatten(1)
    both = (found & wanted).sum(1)
    return both / ((found | wanted).sum(1) + 1e-6)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The weighted losses. Names are those of MODEL.SPARSE_INST.LOSS; `reduce_normalizer` is MODEL.REDUCE_NORMALIZER."""

    class_weight: float
    mask_pixel_weight: float
    mask_dice_weight: float
    objectness_weight: float
    reduce_normalizer: bool = False

    def __call__(
        self,
        class_logits: Tensor,
        objectness: Tensor,
        mask_logits: Tensor,
        matches: Matches,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """The losses, computed in float32; connected zeros if nothing is matched.

        Args:
            class_logits: (B, N, C).
            objectness: (B, N) logits.
            mask_logits: (S, h, w) of the matched queries.
            matches: the S pairs.
            targets: the targets of the B images.
        """
        masks = of_pairs([one.masks for one in targets], matches.image, matches.target)
        labels = of_pairs([one.labels for one in targets], matches.image, matches.target)
        _, queries, classes = class_logits.shape
        positive = (matches.image * queries + matches.query) * classes + labels
        spread = self._per_instance(len(labels), class_logits.device)
        pairs, factor = loss_count(len(labels), reduce=self.reduce_normalizer, device=class_logits.device)
        mean = factor / pairs.clamp(min=1)
        told = objectness[matches.image, matches.query]
        wrong = F.binary_cross_entropy_with_logits(told, mask_ious(mask_logits, masks), reduction="sum")
        return {
            "loss_ce": self.class_weight * focal_loss_sum(class_logits, positive, alpha=0.25, gamma=2.0) * spread,
            "loss_mask": self.mask_pixel_weight * pixel_losses(mask_logits, masks).sum() * mean,
            "loss_dice": self.mask_dice_weight * dice_losses(mask_logits, masks).sum() * spread,
            "loss_objectness": self.objectness_weight * wrong * mean,
        }

    def _per_instance(self, count: int, device: torch.device) -> Tensor:
        """1 / the mean number of pairs of a process, which is at least 1, or if reduced at least 1 on all together."""
        if not self.reduce_normalizer:
            return 1 / reduce_mean(torch.tensor(float(count), device=device)).clamp(min=1)
        total, ranks = loss_count(count, reduce=True, device=device)
        return ranks / total.clamp(min=1)
