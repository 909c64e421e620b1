"""SOLOv2's instance head: classes and queries of all grid cells (docs/parity/solov2.md, "Instance head")."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.grid import check_norm, conv_block, coordinate_maps, init_normal
from adet_iuq.modeling.layers import DeformableConv

COORDINATES = 2  # number of channels


class InstanceHead(nn.Module):
    """Two towers read every level's map, resized to the grid; the kernel tower also reads coordinates."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        num_classes: int,
        kernel_channels: int,
        grid_sizes: Sequence[int],
        norm: str,
        prior_prob: float,
        deformable: str | None,
    ) -> None:
        """
        Args:
            in_channels: the channels of the levels' maps.
            channels: the channels of the towers.
            num_convs: the length of the towers.
            num_classes: the number of classes C.
            kernel_channels: the numbers D of a query.
            grid_sizes: the cells S_l along a side of each level's grid.
            norm: "GN" or "none".
            prior_prob: the class probability that training starts from.
            deformable: the kind of the last convolution of both towers: None (plain), "DCN" or "DCNv2" (modulated).

        Raises:
            UserError: the norm or the kind is unknown, or the channels do not fit the norm.
        """
        super().__init__()
        check_norm(norm, *([channels] if norm == "GN" else []))
        if deformable not in (None, "DCN", "DCNv2"):
            raise UserError(f'MODEL.SOLOV2.TYPE_DCN is "{deformable}"; it can be "DCN" or "DCNv2".')
        self.grid_sizes = list(grid_sizes)

        def tower(entering: int) -> nn.Sequential:
            widths = [entering] + [channels] * num_convs
            convs: list[nn.Module] = [nn.Conv2d(a, b, 3, padding=1, bias=norm == "none") for a, b in pairwise(widths)]
            if deformable is not None:
                convs[-1] = DeformableConv(widths[-2], channels, modulated=deformable == "DCNv2", bias=norm == "none")
            return nn.Sequential(*(layer for conv in convs for layer in conv_block(conv, channels, norm)))

        self.cate_tower = tower(in_channels)
        self.kernel_tower = tower(in_channels + COORDINATES)
        self.cate_pred = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.kernel_pred = nn.Conv2d(channels, kernel_channels, 3, padding=1)
        init_normal(self)
        nn.init.constant_(self.cate_pred.bias, -math.log((1 - prior_prob) / prior_prob))  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """The constructor's arguments from MODEL.SOLOV2."""
        solov2 = cfg.MODEL.SOLOV2
        return {
            "in_channels": solov2.INSTANCE_IN_CHANNELS,
            "channels": solov2.INSTANCE_CHANNELS,
            "num_convs": solov2.NUM_INSTANCE_CONVS,
            "num_classes": solov2.NUM_CLASSES,
            "kernel_channels": solov2.NUM_KERNELS,
            "grid_sizes": solov2.NUM_GRIDS,
            "norm": solov2.NORM,
            "prior_prob": solov2.PRIOR_PROB,
            "deformable": solov2.TYPE_DCN if solov2.USE_DCN_IN_INSTANCE else None,
        }

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (B, C, S_l, S_l) and kernels (B, D, S_l, S_l) of every level from its map (B, in_channels, h, w)."""
        class_logits, kernels = [], []
        for level, size in zip(maps, self.grid_sizes, strict=True):
            # Map and coordinates are resized one by one. Resizing them together gives the same and costs a copy.
            cells, coordinates = (
                F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)
                for part in (level, coordinate_maps(level))
            )
            with_coordinates = torch.cat([cells, coordinates.expand(len(cells), -1, -1, -1)], dim=1)
            class_logits.append(self.cate_pred(self.cate_tower(cells)))
            kernels.append(self.kernel_pred(self.kernel_tower(with_coordinates)))
        return class_logits, kernels
