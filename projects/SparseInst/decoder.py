"""The IAM decoder: activation maps pool queries, a mask branch makes pixels (docs/parity/sparseinst.md, "Decoder").

Shapes: B images, N queries, G groups of activation maps, C classes, D numbers of a query and of a pixel, (h, w) the map at
stride 8.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F

COORDINATES = 2  # number of channels
_RARE = -math.log((1 - 0.01) / 0.01)  # the bias with which a sigmoid starts at 0.01


@dataclass
class Prediction:
    """The predictions of a forward pass."""

    class_logits: Tensor  # (B, N, C)
    kernels: Tensor  # (B, N, D), the queries
    objectness: Tensor  # (B, N) logits
    features: Tensor  # (B, D, h, w), the pixels


def coordinates(like: Tensor) -> Tensor:
    """(1, 2, h, w): x and y of a map's cells, from -1 in the first to 1 in the last; -1 if there is only one."""
    y, x = (torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device) for side in like.shape[-2:])
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])[None]


def tower(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` 3 x 3 convolutions, each with a ReLU after it."""
    layers: list[nn.Module] = []
    for entering, leaving in pairwise([in_channels] + [channels] * depth):
        conv = nn.Conv2d(entering, leaving, 3, padding=1)
        c2_msra_fill(conv)
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class InstanceBranch(nn.Module):
    """Predicts every query's class logits, kernel and objectness from the features that its activation maps pool."""

    def __init__(
        self,
        in_channels: int,
        *,
        dim: int,
        num_convs: int,
        num_masks: int,
        num_classes: int,
        kernel_dim: int,
        groups: int | None,
        soft: bool,
    ) -> None:
        """
        Args:
            in_channels: the channels of the map, coordinates included.
            dim: the channels of the tower.
            num_convs: the length of the tower.
            num_masks: the number of queries N.
            num_classes: the number of classes C.
            kernel_dim: the numbers D of a query.
            groups: the number of maps G of a query; None: a query has one map, and its pooled features are used directly.
            soft: whether maps are normalised by a softmax over the image instead of by their sum of sigmoids.
        """
        super().__init__()
        self.groups, self.grouped, self.soft = groups or 1, groups is not None, soft
        width = dim * self.groups
        self.inst_convs = tower(in_channels, dim, num_convs)
        self.iam_conv = nn.Conv2d(dim, num_masks * self.groups, 3, padding=1, groups=self.groups)
        self.fc = nn.Linear(width, width) if self.grouped else nn.Identity()
        self.cls_score = nn.Linear(width, num_classes)
        self.mask_kernel = nn.Linear(width, kernel_dim)
        self.objectness = nn.Linear(width, 1)
        if soft:
            self.softmax_bias = nn.Parameter(torch.ones(1))
        for layer, bias in ((self.iam_conv, _RARE), (self.cls_score, _RARE), (self.mask_kernel, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
        if isinstance(self.fc, nn.Linear):
            c2_xavier_fill(self.fc)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, channels, h, w) to class logits (B, N, C), kernels (B, N, D) and objectness (B, N)."""
        features = self.inst_convs(x)
        pooled = self.pool(features, self.iam_conv(features))
        # Channel g * N + n is map g of query n; a query's groups are moved side by side.
        pooled = pooled.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(2)
        if self.grouped:
            pooled = F.relu(self.fc(pooled))
        return self.cls_score(pooled), self.mask_kernel(pooled), self.objectness(pooled)[..., 0]

    def pool(self, features: Tensor, maps: Tensor) -> Tensor:
        """The features (B, dim, h, w) pooled by activation maps (B, M, h, w), logits: (B, M, dim), in float32."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(2).transpose(1, 2)
            logits = maps.float().flatten(2)
            if self.soft:
                return (logits + self.softmax_bias).softmax(-1) @ flat
            weights = logits.sigmoid()
            return weights / weights.sum(-1, keepdim=True).clamp(min=1e-6) @ flat


class MaskBranch(nn.Module):
    """Makes the pixels: D numbers at every cell."""

    def __init__(self, in_channels: int, *, dim: int, num_convs: int, kernel_dim: int) -> None:
        """
        Args:
            in_channels: the channels of the map, coordinates included.
            dim: the channels of the tower.
            num_convs: the length of the tower.
            kernel_dim: the numbers D of a pixel.
        """
        super().__init__()
        self.mask_convs = tower(in_channels, dim, num_convs)
        self.projection = nn.Conv2d(dim, kernel_dim, 1)
        c2_msra_fill(self.projection)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, D, h, w)."""
        features: Tensor = self.projection(self.mask_convs(x))
        return features


class IAMDecoder(nn.Module):
    """Both branches on one map, with coordinates in front of its channels."""

    @configurable
    def __init__(
        self, in_channels: int, *, kernel_dim: int, instance: dict[str, Any], mask_dim: int, mask_convs: int
    ) -> None:
        """
        Args:
            in_channels: the channels of the encoder's map.
            kernel_dim: the numbers D of a query and of a pixel.
            instance: the further arguments of `InstanceBranch`.
            mask_dim: the channels of the mask branch's tower.
            mask_convs: the length of the mask branch's tower.
        """
        super().__init__()
        self.kernel_dim = kernel_dim
        entering = in_channels + COORDINATES
        self.inst_branch = InstanceBranch(entering, kernel_dim=kernel_dim, **instance)
        self.mask_branch = MaskBranch(entering, dim=mask_dim, num_convs=mask_convs, kernel_dim=kernel_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        decoder = cfg.MODEL.SPARSE_INST.DECODER
        instance = {
            "dim": decoder.INST.DIM,
            "num_convs": decoder.INST.CONVS,
            "num_masks": decoder.NUM_MASKS,
            "num_classes": decoder.NUM_CLASSES,
            "groups": None if decoder.NAME == "BaseIAMDecoder" else decoder.GROUPS,
            "soft": decoder.NAME == "GroupIAMSoftDecoder",
        }
        return {
            "in_channels": in_channels,
            "kernel_dim": decoder.KERNEL_DIM,
            "instance": instance,
            "mask_dim": decoder.MASK.DIM,
            "mask_convs": decoder.MASK.CONVS,
        }

    def forward(self, x: Tensor) -> Prediction:
        """All predictions from the encoder's map (B, in_channels, h, w)."""
        x = torch.cat([coordinates(x).expand(len(x), -1, -1, -1), x], dim=1)
        class_logits, kernels, objectness = self.inst_branch(x)
        return Prediction(class_logits, kernels, objectness, self.mask_branch(x))
