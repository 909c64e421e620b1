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
        """The constructor's arguments from MODEL.MASK_FORMER and MODEL.SEM_SEG_HEAD."""
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
    ) -> tuple[dict[str, Tensor], Matches]:
        """Returns the weighted losses, and the matches of the predictions that have losses; the last one comes last.

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
            logits = torch.stack([one.logits for one in chosen]).float()
            embeddings = torch.stack([one.embeddings for one in chosen]).float()
            with part("targets"):
                matches = self.matcher(logits, embeddings, mask_features, targets, frame)
            class_losses = self.class_weight * self.class_losses(logits, matches, targets)
            with part("heads"):
                counts = [len(matches) * count for count in matches.counts]
                matched = matches.by_image(embeddings[matches.place])
                masks = ordered_dot_product_maps(matched, counts, mask_features)
            target_index = matches.by_image(matches.target)
            sampled, wanted, _ = self.sample(masks, target_index, counts, [one.masks for one in targets], frame)
            normalizer = self._normalizer(targets)
            mask_loss = self.mask_weight * matches.sums(mask_losses.cross_entropy(sampled, wanted)) / normalizer
            dice_loss = self.dice_weight * matches.sums(mask_losses.dice(sampled, wanted)) / normalizer
            losses: dict[str, Tensor] = {}
            for index in reversed(range(len(chosen))):
                suffix = "" if index == len(chosen) - 1 else f"_{index}"
                losses[f"loss_ce{suffix}"] = class_losses[index]
                losses[f"loss_mask{suffix}"] = mask_loss[index]
                losses[f"loss_dice{suffix}"] = dice_loss[index]
        return losses, matches

    def class_losses(self, logits: Tensor, matches: Matches, targets: Sequence[Targets]) -> Tensor:
        """(R,) cross-entropies of all queries (R, B, Q, K + 1), divided by their weights. Unmatched ones are "no object"."""
        classes = torch.full(logits.shape[:3], logits.shape[3] - 1, device=logits.device)
        rows = matches.target.split(matches.counts, dim=1)
        classes[matches.place] = torch.cat([one.labels[of] for one, of in zip(targets, rows, strict=True)], dim=1)
        losses = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), self.empty_weight, reduction="none")
        count, factor = loss_count(self.empty_weight[classes].sum((1, 2)), reduce=self.reduce_normalizer)
        return losses.view_as(classes).sum((1, 2)) * factor / count

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
        images = zip(masks, points.split(list(counts)), target_index.split(list(counts)), strict=True)
        wanted = torch.cat([sample_bit_masks(mask, at, frame, rows) for mask, at, rows in images])
        sampled = sample_maps(logits[:, None], points)[:, 0]
        return sampled, wanted, None if valid is None else avoids_invalid(valid, points)

    def _normalizer(self, targets: Sequence[Targets]) -> Tensor:
        """The mean number of targets of a rank; at least 1, or with `reduce_normalizer` at least 1 on all ranks together."""
        count = torch.tensor(float(sum(len(one.labels) for one in targets)), device=self.empty_weight.device)
        if not self.reduce_normalizer:
            return reduce_mean(count).clamp(min=1)
        total, ranks = loss_count(count, reduce=True)
        return total.clamp(min=1) / ranks
