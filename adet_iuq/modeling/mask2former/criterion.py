"""Mask2Former's losses: classes of all queries, masks of the matched ones on random points, for every prediction.

Source: docs/parity/mask2former.md, "Losses". Shapes: as in `matcher.py`; M matched queries of a prediction.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import loss_count, ordered_dot_product_maps, reduce_mean
from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.mask2former.matcher import HungarianMatcher, Matches, Targets
from adet_iuq.modeling.mask2former.points import (
    PointSource,
    avoids_invalid,
    sample_bit_masks,
    sample_maps,
    uncertain_points,
    uniform_points,
)
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from adet_iuq.modeling.parts import part

Size = tuple[int, int]


class SetCriterion(nn.Module):
    """Matches every prediction and weighs its losses, in float32 even under autocast."""

    empty_weight: Tensor

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        no_object_weight: float,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_ratio: float,
        deep_supervision: bool,
        source: PointSource = uniform_points,
        reduce_normalizer: bool = False,
    ) -> None:
        """
        Args:
            num_classes: the number of classes K.
            no_object_weight: the weight of unmatched queries in the class loss.
            class_weight: the weight of the class loss and of the class cost of the matching.
            mask_weight: the weight of the cross-entropy of masks and of its cost.
            dice_weight: the weight of the dice loss and of its cost.
            num_points: the number of random points of a mask.
            oversample_ratio: the share of candidates in `uncertain_points`.
            importance_ratio: the share of uncertain points in `uncertain_points`.
            deep_supervision: whether every prediction has losses, and not the last one only.
            source: the function that draws all random points.
            reduce_normalizer: whether queries and targets are counted as one process with the global batch counts them. The
                published code averages targets over ranks too, but bounds the average, and sums class weights per rank.

        Raises:
            UserError: a ratio lies outside its range.
        """
        super().__init__()
        if not (0 <= importance_ratio <= 1 and oversample_ratio >= max(1.0, importance_ratio)):
            raise UserError(
                f"MODEL.MASK_FORMER: IMPORTANCE_SAMPLE_RATIO {importance_ratio} must lie between 0 and 1, "
                f"OVERSAMPLE_RATIO {oversample_ratio} be at least 1."
            )
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.num_points = num_points
        self.oversample_ratio, self.importance_ratio = oversample_ratio, importance_ratio
        self.deep_supervision, self.source = deep_supervision, source
        self.reduce_normalizer = reduce_normalizer
        self.matcher = HungarianMatcher(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            num_points=num_points,
            source=source,
        )
        weight = torch.ones(num_classes + 1)
        weight[-1] = no_object_weight
        self.register_buffer("empty_weight", weight)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        former = cfg.MODEL.MASK_FORMER
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "no_object_weight": former.NO_OBJECT_WEIGHT,
            "class_weight": former.CLASS_WEIGHT,
            "mask_weight": former.MASK_WEIGHT,
            "dice_weight": former.DICE_WEIGHT,
            "num_points": former.TRAIN_NUM_POINTS,
            "oversample_ratio": former.OVERSAMPLE_RATIO,
            "importance_ratio": former.IMPORTANCE_SAMPLE_RATIO,
            "deep_supervision": former.DEEP_SUPERVISION,
            "reduce_normalizer": cfg.MODEL.REDUCE_NORMALIZER,
        }

    @part("losses")
    def forward(
        self, predictions: Sequence[Prediction], mask_features: Tensor, targets: Sequence[Targets], frame: Size
    ) -> tuple[dict[str, Tensor], list[Matches]]:
        """Returns the weighted losses, and the matches of every prediction that has losses; the last one comes last.

        Args:
            predictions: the predictions of all layers in their order.
            mask_features: (B, D, h, w).
            targets: the targets of the B images; labels lie between 0 and K - 1.
            frame: (H, W) of the padded input in pixels.

        Returns:
            `loss_ce`, `loss_mask` and `loss_dice` of the last prediction, and those of the i-th one with the suffix _i;
            and the matches.
        """
        with torch.autocast(mask_features.device.type, enabled=False):
            mask_features = mask_features.float()
            chosen = predictions if self.deep_supervision else predictions[-1:]
            chosen = [Prediction(one.logits.float(), one.embeddings.float()) for one in chosen]
            with part("targets"):
                matches = self.matcher(chosen, mask_features, targets, frame)
            normalizer = self._normalizer(targets)
            suffixes = [f"_{index}" for index in range(len(chosen) - 1)] + [""]
            losses: dict[str, Tensor] = {}
            for suffix, prediction, match in reversed(list(zip(suffixes, chosen, matches, strict=True))):
                with part("heads"):
                    matched = prediction.embeddings[match.image, match.query]
                    logits = ordered_dot_product_maps(matched, match.counts, mask_features)
                mask_loss, dice_loss = self.mask_losses(logits, match, targets, frame)
                losses[f"loss_ce{suffix}"] = self.class_weight * self.class_loss(prediction.logits, match, targets)
                losses[f"loss_mask{suffix}"] = self.mask_weight * mask_loss.sum() / normalizer
                losses[f"loss_dice{suffix}"] = self.dice_weight * dice_loss.sum() / normalizer
        return losses, matches

    def class_loss(self, logits: Tensor, matches: Matches, targets: Sequence[Targets]) -> Tensor:
        """Cross-entropy of all queries (B, Q, K + 1), divided by the sum of their weights. Unmatched: "no object"."""
        classes = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
        labels = [one.labels[rows] for one, rows in zip(targets, matches.target.split(matches.counts), strict=True)]
        classes[matches.image, matches.query] = torch.cat(labels)
        if not self.reduce_normalizer:
            return F.cross_entropy(logits.transpose(1, 2), classes, self.empty_weight)
        count, factor = loss_count(self.empty_weight[classes].sum(), reduce=True)
        return F.cross_entropy(logits.transpose(1, 2), classes, self.empty_weight, reduction="sum") * factor / count

    def mask_losses(
        self, logits: Tensor, matches: Matches, targets: Sequence[Targets], frame: Size
    ) -> tuple[Tensor, Tensor]:
        """The binary cross-entropy and the dice loss (M,) of matched masks (M, h, w), on the same points."""
        sampled, wanted, _ = self.sample(logits, matches.target, matches.counts, [one.masks for one in targets], frame)
        return mask_losses.cross_entropy(sampled, wanted), mask_losses.dice(sampled, wanted)

    def sample(
        self,
        logits: Tensor,
        target_index: Tensor,
        counts: Sequence[int],
        masks: Sequence[Tensor],
        frame: Size,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The logits and the targets of N masks, at random points of their own.

        Args:
            logits: (N, h, w), ordered by image.
            target_index: (N,) long, the row of each mask's target in the image's masks.
            counts: the number of rows of each of B images.
            masks: B x (K_b, H, W) bool, the targets.
            frame: (H, W) of the padded input in pixels.
            valid: (N, h, w) float; cells with 1 count, those with 0 do not; None: all count.

        Returns:
            (N, P) logits, (N, P) targets, and (N, P) bool, the points that count.
        """
        points = uncertain_points(
            logits,
            self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_ratio=self.importance_ratio,
            source=self.source,
            valid=valid,
        )
        rows = zip(masks, target_index.split(list(counts)), points.split(list(counts)), strict=True)
        wanted = torch.cat([sample_bit_masks(mask[index], at, frame) for mask, index, at in rows])
        sampled = sample_maps(logits[:, None], points)[:, 0]
        return sampled, wanted, None if valid is None else avoids_invalid(valid, points)

    def _normalizer(self, targets: Sequence[Targets]) -> Tensor:
        """The mean number of targets of a rank; at least 1, or with `reduce_normalizer` at least 1 on all ranks together."""
        count = torch.tensor(float(sum(len(one.labels) for one in targets)), device=self.empty_weight.device)
        if not self.reduce_normalizer:
            return reduce_mean(count).clamp(min=1)
        total, ranks = loss_count(count, reduce=True)
        return total.clamp(min=1) / ranks
