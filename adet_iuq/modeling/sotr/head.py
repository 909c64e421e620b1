"""SOTR's head: one transformer, from whose output every grid cell gets its classes and its kernel, the query.

Source: docs/parity/sotr.md, "Head". Shapes: B images, C classes, D numbers of a kernel, S grid size of a level.
"""

import math
from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.sotr.transformer import TwinTransformer

CHANNELS = 256  # channels of the transformer, a constant of the published code


class TransformerHead(nn.Module):
    """One transformer for all levels and for the mask branch, whose coarsest input is the transformed p5."""

    @configurable
    def __init__(self, *, grid_sizes: Sequence[int], num_classes: int, kernel_channels: int, prior_prob: float) -> None:
        """
        Args:
            grid_sizes: the grid size S of each level.
            num_classes: the number of classes C.
            kernel_channels: the numbers D of a kernel.
            prior_prob: the class probability that training starts from.
        """
        super().__init__()
        self.grid_sizes = list(grid_sizes)
        self.transformer = TwinTransformer(CHANNELS)
        self.cate_pred = nn.Linear(CHANNELS, num_classes)
        self.kernel_pred = nn.Linear(CHANNELS, kernel_channels)
        nn.init.constant_(self.cate_pred.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        sotr = cfg.MODEL.SOTR
        for key in ("INSTANCE_IN_CHANNELS", "MASK_IN_CHANNELS"):
            if sotr[key] != CHANNELS:
                raise UserError(f"MODEL.SOTR.{key} is {sotr[key]}; SOTR's transformer takes {CHANNELS} channels.")
        return {
            "grid_sizes": sotr.NUM_GRIDS,
            "num_classes": sotr.NUM_CLASSES,
            "kernel_channels": sotr.NUM_KERNELS,
            "prior_prob": sotr.PRIOR_PROB,
        }

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (B, C, S, S) and kernels (B, D, S, S) of every level, from its map (B, 256, h, w)."""
        class_logits, kernels = [], []
        for size, level in zip(self.grid_sizes, maps, strict=True):
            cells = F.interpolate(level, size=(size, size), mode="bilinear", align_corners=False)
            cells = self.transformer(cells).permute(0, 2, 3, 1)
            class_logits.append(self.cate_pred(cells).permute(0, 3, 1, 2))
            kernels.append(self.kernel_pred(cells).permute(0, 3, 1, 2))
        return class_logits, kernels
