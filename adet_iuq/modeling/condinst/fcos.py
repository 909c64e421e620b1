"""FCOS, which creates CondInst's queries: every location that is assigned to an instance is a query."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.utils import comm
from torch import Tensor, nn

from adet_iuq.errors import UserError
from adet_iuq.modeling.condinst.fcos_head import FCOSHead, HeadMaps
from adet_iuq.modeling.condinst.fcos_inference import Detections, DetectionSettings, detect
from adet_iuq.modeling.condinst.fcos_losses import box_losses
from adet_iuq.modeling.condinst.fcos_targets import GroundTruth, Positives, assign_targets, level_locations
from adet_iuq.modeling.layers import focal_loss_sum, loss_count, reduce_mean
from adet_iuq.modeling.parts import part

_CHOICES = {
    "LOC_LOSS_TYPE": ("iou", "linear_iou", "giou"),
    "BOX_QUALITY": ("ctrness", "iou"),
    "LOSS_NORMALIZER_CLS": ("fg", "moving_fg", "all"),
}


@PROPOSAL_GENERATOR_REGISTRY.register()
class FCOS(nn.Module):
    """Dense detector (arXiv 1904.01355) with the options that CondInst's recipes use."""

    moving_positives: Tensor

    @configurable
    def __init__(
        self,
        *,
        fcos_head: FCOSHead,
        in_features: Sequence[str],
        strides: Sequence[int],
        sizes_of_interest: Sequence[int],
        num_classes: int,
        radius: float | None,
        focal: tuple[float, float, float],
        class_normalizer: str,
        location_loss: str,
        box_quality: str,
        detection: DetectionSettings,
        reduce_normalizer: bool = False,
    ) -> None:
        """
        Args:
            fcos_head: the towers and predictors.
            in_features: the names of the levels' maps.
            strides: the strides of the levels in pixels.
            sizes_of_interest: the bounds between the levels in pixels, one fewer than levels.
            num_classes: the number of classes C.
            radius: half the side of the centre region in strides; None: positives may lie anywhere in the box.
            focal: alpha, gamma and weight of the class loss.
            class_normalizer: "fg", "moving_fg" or "all".
            location_loss: "iou", "linear_iou" or "giou".
            box_quality: "ctrness" or "iou".
            detection: the thresholds of the inference.
            reduce_normalizer: whether positives are counted as one process with the global batch counts them. The published
                code averages over ranks as well, but bounds the average, which gives another number for few positives.
        """
        super().__init__()
        self.fcos_head = fcos_head
        self.in_features, self.strides = list(in_features), list(strides)
        self.sizes_of_interest, self.num_classes, self.radius = list(sizes_of_interest), num_classes, radius
        self.focal_alpha, self.focal_gamma, self.class_weight = focal
        self.class_normalizer, self.location_loss, self.box_quality = class_normalizer, location_loss, box_quality
        self.detection = detection
        self.reduce_normalizer = reduce_normalizer
        # For "moving_fg". As published it does not belong to the weights; a resumed run gets it from training_state.
        self.register_buffer("moving_positives", torch.tensor(100.0), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """The constructor's arguments from MODEL.FCOS, for a backbone's maps `input_shape`.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        fcos = cfg.MODEL.FCOS
        for key, choices in _CHOICES.items():
            if fcos[key] not in choices:
                raise UserError(f'MODEL.FCOS.{key} is "{fcos[key]}"; it can be {" or ".join(choices)}.')
        if not len(fcos.IN_FEATURES) == len(fcos.FPN_STRIDES) == len(fcos.SIZES_OF_INTEREST) + 1:
            raise UserError(
                "MODEL.FCOS.IN_FEATURES, FPN_STRIDES and SIZES_OF_INTEREST do not fit together: "
                f"{fcos.IN_FEATURES}, {fcos.FPN_STRIDES}, {fcos.SIZES_OF_INTEREST} (one bound fewer than levels)."
            )
        return {
            "fcos_head": FCOSHead(cfg, [input_shape[name] for name in fcos.IN_FEATURES]),
            "in_features": fcos.IN_FEATURES,
            "strides": fcos.FPN_STRIDES,
            "sizes_of_interest": fcos.SIZES_OF_INTEREST,
            "num_classes": fcos.NUM_CLASSES,
            "radius": fcos.POS_RADIUS if fcos.CENTER_SAMPLE else None,
            "focal": (fcos.LOSS_ALPHA, fcos.LOSS_GAMMA, fcos.LOSS_WEIGHT_CLS),
            "class_normalizer": fcos.LOSS_NORMALIZER_CLS,
            "location_loss": fcos.LOC_LOSS_TYPE,
            "box_quality": fcos.BOX_QUALITY,
            "detection": DetectionSettings(
                fcos.INFERENCE_TH_TEST,
                fcos.PRE_NMS_TOPK_TEST,
                fcos.POST_NMS_TOPK_TEST,
                fcos.NMS_TH,
                fcos.THRESH_WITH_CTR,
            ),
            "reduce_normalizer": cfg.MODEL.REDUCE_NORMALIZER,
        }

    def forward(self, features: dict[str, Tensor]) -> HeadMaps:
        """The head's maps of the levels' features, each (B, channels, h, w)."""
        return self.fcos_head([features[name] for name in self.in_features])

    def locations(self, maps: HeadMaps) -> list[Tensor]:
        """Positions of every level's cells, (h * w, 2) each, in pixels of the network input."""
        return [
            level_locations((logits.shape[2], logits.shape[3]), stride, logits.device)
            for logits, stride in zip(maps.logits, self.strides, strict=True)
        ]

    def losses(self, maps: HeadMaps, ground_truth: Sequence[GroundTruth]) -> tuple[dict[str, Tensor], Positives]:
        """Class, location and quality losses, and the positives of the batch (which become queries)."""
        with part("targets"):
            labels, positives = assign_targets(
                self.locations(maps), self.strides, self.sizes_of_interest, ground_truth, self.num_classes, self.radius
            )
        positive_mean = self._mean_count(len(positives), labels.device)
        losses = {"loss_fcos_cls": self._class_loss(maps, labels, positives, positive_mean)}
        regression, quality = (
            torch.cat([_at(m, p) for m, p in zip(level_maps, self._by_level(positives), strict=True)])
            for level_maps in (maps.regression, maps.quality)
        )
        losses |= box_losses(
            regression, quality[:, 0], positives.targets, positive_mean, self.location_loss, self.box_quality
        )
        return losses, positives

    @part("nms")
    def detections(self, maps: HeadMaps, images_per_picture: int = 1) -> list[Detections]:
        """The detections of every picture, with boxes in pixels of the network input."""
        return detect(maps, self.locations(maps), self.strides, self.detection.times(images_per_picture))

    def _class_loss(self, maps: HeadMaps, labels: Tensor, positives: Positives, positive_mean: Tensor) -> Tensor:
        total = labels.new_zeros((), dtype=torch.float32)
        splits = positives.classes.split(positives.counts)
        for logits, (image, cell), classes in zip(maps.logits, self._by_level(positives), splits, strict=True):
            index = (image * self.num_classes + classes) * logits[0, 0].numel() + cell
            total = total + focal_loss_sum(logits, index, self.focal_alpha, self.focal_gamma)
        return self.class_weight * total / self._class_normalizer(labels, positive_mean)

    def _class_normalizer(self, labels: Tensor, positive_mean: Tensor) -> Tensor:
        if self.class_normalizer == "fg":
            return positive_mean
        if self.class_normalizer == "all":
            return self._mean_count(len(labels), labels.device)
        # The moving average starts from a constant, whatever the number of ranks is. With `reduce_normalizer` it must
        # therefore hold the number of positives that a single process with the whole batch would count.
        ranks = comm.get_world_size() if self.reduce_normalizer else 1
        self.moving_positives.mul_(0.9).add_(0.1 * ranks * positive_mean)
        return self.moving_positives / ranks

    def _mean_count(self, count: int, device: torch.device) -> Tensor:
        """Mean over the ranks, which is at least 1, or with `reduce_normalizer` at least 1 on all ranks together."""
        if not self.reduce_normalizer:
            return reduce_mean(torch.tensor(float(count), device=device)).clamp(min=1)
        total, ranks = loss_count(count, reduce=True, device=device)
        return total.clamp(min=1) / ranks

    @staticmethod
    def _by_level(positives: Positives) -> list[tuple[Tensor, Tensor]]:
        """(image, cell) of the positives of each level."""
        return list(zip(positives.image.split(positives.counts), positives.cell.split(positives.counts), strict=True))


def _at(maps: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
    """(N, C) values of maps (B, C, h, w) at (image, row-major cell)."""
    return maps.flatten(2)[where[0], :, where[1]]
