"""The convolutional head of FCOS, one set of weights for all levels.

Shapes: B images, level l of size (h, w) and stride t, C classes, 256 channels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import NaiveSyncBatchNorm, ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError


class Scale(nn.Module):
    """One learned factor of shape (1,)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Tower(nn.Sequential):
    """Convolutions with norm and ReLU. A norm that is a `ModuleList` holds one norm per level."""

    def __init__(self, channels: int, num_convs: int, norm: str, num_levels: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            conv = nn.Conv2d(channels, channels, 3, padding=1)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, *_norm(norm, channels, num_levels), nn.ReLU()]
        super().__init__(*layers)

    def forward(self, x: Tensor, level: int) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer[level](x) if isinstance(layer, nn.ModuleList) else layer(x)
        return x


def _norm(name: str, channels: int, num_levels: int) -> Iterable[nn.Module]:
    if name == "none":
        return []
    if name == "GN":
        return [nn.GroupNorm(32, channels)]
    if name in ("BN", "SyncBN"):
        norm = nn.BatchNorm2d if name == "BN" else NaiveSyncBatchNorm
        return [nn.ModuleList(norm(channels) for _ in range(num_levels))]
    raise UserError(f'MODEL.FCOS.NORM is "{name}"; it can be "GN", "BN", "SyncBN" or "none".')


@dataclass
class HeadMaps:
    """The outputs of the head; each list has one entry per level."""

    logits: list[Tensor]  # (B, C, h, w)
    regression: list[Tensor]  # (B, 4, h, w) distances left, top, right, bottom in units of the stride, >= 0
    quality: list[Tensor]  # (B, 1, h, w) logits of the centerness or of the IoU
    box_features: list[Tensor]  # (B, 256, h, w) output of the box tower; the controller reads it


class FCOSHead(nn.Module):
    """Towers and predictors (docs/parity/condinst.md, "Model")."""

    @configurable
    def __init__(
        self,
        *,
        channels: int,
        num_classes: int,
        num_levels: int,
        num_convs: tuple[int, int, int],
        norm: str,
        use_scale: bool,
        prior_prob: float,
        bbox_bias_init: float,
    ) -> None:
        """
        Args:
            channels: the channels of the feature maps.
            num_classes: the number of classes C.
            num_levels: the number of feature maps.
            num_convs: the lengths of the shared, the class and the box tower.
            norm: "GN", "BN", "SyncBN" or "none".
            use_scale: whether each level has a learned factor for the box regression.
            prior_prob: the class probability that training starts from.
            bbox_bias_init: the bias that the box regression starts from; 0 as published, 1 for training from random weights.

        Raises:
            UserError: the norm is unknown.
        """
        super().__init__()
        share, classes, boxes = num_convs
        self.share_tower = Tower(channels, share, norm, num_levels)
        self.cls_tower = Tower(channels, classes, norm, num_levels)
        self.bbox_tower = Tower(channels, boxes, norm, num_levels)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(channels, 1, 3, padding=1)
        for conv, bias in (
            (self.cls_logits, -math.log((1 - prior_prob) / prior_prob)),
            (self.bbox_pred, bbox_bias_init),
            (self.ctrness, 0.0),
        ):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
        self.use_scale = use_scale
        if use_scale:
            self.scales = nn.ModuleList(Scale() for _ in range(num_levels))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> dict:
        """The constructor's arguments from MODEL.FCOS, for the maps `input_shape`, one a level."""
        fcos = cfg.MODEL.FCOS
        return {
            "channels": input_shape[0].channels,
            "num_classes": fcos.NUM_CLASSES,
            "num_levels": len(input_shape),
            "num_convs": (fcos.NUM_SHARE_CONVS, fcos.NUM_CLS_CONVS, fcos.NUM_BOX_CONVS),
            "norm": fcos.NORM,
            "use_scale": fcos.USE_SCALE,
            "prior_prob": fcos.PRIOR_PROB,
            "bbox_bias_init": fcos.BBOX_BIAS_INIT,
        }

    def forward(self, features: Sequence[Tensor]) -> HeadMaps:
        """Runs all levels; `features` holds one map (B, channels, h, w) per level."""
        maps = HeadMaps([], [], [], [])
        for level, feature in enumerate(features):
            feature = self.share_tower(feature, level)
            box_features = self.bbox_tower(feature, level)
            regression = self.bbox_pred(box_features)
            if self.use_scale:
                regression = self.scales[level](regression)
            maps.logits.append(self.cls_logits(self.cls_tower(feature, level)))
            maps.regression.append(F.relu(regression))
            maps.quality.append(self.ctrness(box_features))
            maps.box_features.append(box_features)
        return maps
