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


class TransformerHead(nn.Module):
    """One transformer for all levels and for the mask branch, whose coarsest input is the transformed p5."""

    @configurable
    def __init__(
        self,
        *,
        grid_sizes: Sequence[int],
        num_classes: int,
        kernel_channels: int,
        prior_prob: float,
        channels: int = 256,
        depth: int = 12,
        heads: int = 8,
    ) -> None:
        """
        Args:
            grid_sizes: the grid size S of each level.
            num_classes: the number of classes C.
            kernel_channels: the numbers D of a kernel.
            prior_prob: the class probability that training starts from.
            channels: the channels of the transformer and of the maps that it reads.
            depth: the number of pairs of an attention block and a convolution block of the transformer.
            heads: the number of heads of its attention.
        """
        super().__init__()
        self.grid_sizes = list(grid_sizes)
        self.transformer = TwinTransformer(channels, depth, heads)
        self.cate_pred = nn.Linear(channels, num_classes)
        self.kernel_pred = nn.Linear(channels, kernel_channels)
        nn.init.constant_(self.cate_pred.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """The constructor's arguments from MODEL.SOTR.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        sotr = cfg.MODEL.SOTR
        channels, heads, depth = sotr.INSTANCE_IN_CHANNELS, sotr.TRANSFORMER_HEADS, sotr.TRANSFORMER_DEPTH
        if channels != sotr.MASK_IN_CHANNELS:
            raise UserError(
                f"MODEL.SOTR.INSTANCE_IN_CHANNELS is {channels} and MASK_IN_CHANNELS is {sotr.MASK_IN_CHANNELS}; they must "
                "be equal, because the mask branch reads the transformed p5."
            )
        if heads < 1 or channels % heads or depth < 1:
            raise UserError(
                f"MODEL.SOTR.TRANSFORMER_HEADS is {heads} and TRANSFORMER_DEPTH {depth}; both must be at least 1, and the "
                f"heads must share the {channels} channels (INSTANCE_IN_CHANNELS) evenly."
            )
        return {
            "grid_sizes": sotr.NUM_GRIDS,
            "channels": channels,
            "depth": depth,
            "heads": heads,
            "num_classes": sotr.NUM_CLASSES,
            "kernel_channels": sotr.NUM_KERNELS,
            "prior_prob": sotr.PRIOR_PROB,
        }

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (B, C, S, S) and kernels (B, D, S, S) of every level, from its map (B, `channels`, h, w)."""
        class_logits, kernels = [], []
        for size, level in zip(self.grid_sizes, maps, strict=True):
            cells = F.interpolate(level, size=(size, size), mode="bilinear", align_corners=False)
            cells = self.transformer(cells).permute(0, 2, 3, 1)
            class_logits.append(self.cate_pred(cells).permute(0, 3, 1, 2))
            kernels.append(self.kernel_pred(cells).permute(0, 3, 1, 2))
        return class_logits, kernels
