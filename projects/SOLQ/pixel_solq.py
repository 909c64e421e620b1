"""SOLQ with pixels: a product of queries and cells, which is learned beside its masks and not used in evaluation.

SOLQ has no such product, and the paper does not say how instance-unique querying is added to it. This is our reading
(docs/parity/solq.md, "Instance-unique querying"). `PixelSOLQ` alone, without the two losses, is its control run.
Shapes: B images, Q matched queries, C channels, P numbers in a pixel, (h, w) the finest map.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.iuq import valid_cells
from adet_iuq.modeling import TrainingPass, part
from adet_iuq.modeling.layers import dice_losses, dot_product_maps, loss_count, pair_rows

from .solq import SOLQ
from .transformer import MLP


class PixelHeads(nn.Module):
    """Projects queries and cells to vectors whose product says how well they fit."""

    def __init__(self, channels: int, dim: int) -> None:
        """
        Args:
            channels: C, the channels of queries and cells.
            dim: P, the numbers in a pixel.
        """
        super().__init__()
        self.query = MLP([channels, channels, channels, dim])
        self.pixel = nn.Conv2d(channels, dim, 1)
        self.bias = nn.Parameter(torch.full((1,), -math.log(99)))  # fits start at 0.01

    def queries(self, states: Tensor) -> Tensor:
        """(Q, P + 1) of states (Q, C); the last number of each query is the bias."""
        scaled = self.query(states) / math.sqrt(self.pixel.out_channels)
        return torch.cat([scaled, self.bias.expand(len(states), 1)], dim=1)


@META_ARCH_REGISTRY.register()
class PixelSOLQ(SOLQ):
    """SOLQ with the heads and their intra-image term; its evaluation is SOLQ's."""

    mask_loss_name = "loss_pixel_dice"

    @configurable
    def __init__(self, *, heads_dim: int, pixel_weight: float, **base: Any) -> None:
        """
        Args:
            heads_dim: P, the numbers in a pixel.
            pixel_weight: the weight of both intra-image losses.
            base: the arguments of SOLQ.
        """
        super().__init__(**base)
        self.iuq = PixelHeads(self.transformer.channels, heads_dim)
        self.pixel_dim, self.pixel_weight = heads_dim, pixel_weight
        self.mask_loss_ceiling = pixel_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        solq = cfg.MODEL.SOLQ
        return {**super().from_config(cfg), "heads_dim": solq.PIXEL_DIM, "pixel_weight": solq.PIXEL_WEIGHT}

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """SOLQ's pass with projected queries and pixels, and `loss_pixel_dice` and `loss_pixel_bce` of their product."""
        done = super().training_pass(batched_inputs)
        with part("heads"), torch.autocast(self.device.type, enabled=False):
            done = replace(
                done,
                features=self.iuq.pixel(done.features.float()),
                embeddings=self.iuq.queries(done.embeddings.float()),
            )
            logits = pixel_logits(done.embeddings, done.image_index, done.features)
        with part("losses"):
            dice, bce = self.pixel_losses(
                logits, done.image_index, done.target_index, done.masks, self._inside(done.image_sizes, done.features)
            )
        names = {"loss_pixel_dice": self.pixel_weight * dice, "loss_pixel_bce": self.pixel_weight * bce}
        return replace(done, losses=done.losses | names)

    def pixel_losses(
        self, logits: Tensor, image_index: Tensor, target_index: Tensor, masks: Sequence[Tensor], valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The dice loss and the mean cross-entropy, averaged over the queries whose instance has a valid cell.

        Args:
            logits: (Q, h, w), one map per query.
            image_index: (Q,) long, the image of each query.
            target_index: (Q,) long, the row of each query's instance in the image's masks.
            masks: B x (K, H, W) bool.
            valid: (B, h, w) bool, the cells that count.
        """
        small = [small_masks(mask, self.pixel_stride, logits.shape[1:]) for mask in masks]
        wanted = torch.cat([logits.new_zeros(0, *logits.shape[1:]), *(one.to(logits.dtype) for one in small)])
        rows = pair_rows([len(one) for one in small], image_index, target_index)
        wanted, counting = wanted[rows], valid[image_index]
        seen = ((wanted > 0) & counting).flatten(1).any(1)
        dice = dice_losses(logits, image_index, target_index, [one.float() for one in small], valid)
        per_cell = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        cells = counting.flatten(1).sum(1).clamp(min=1)
        bce = torch.where(counting, per_cell, 0.0).flatten(1).sum(1) / cells
        count, ranks = loss_count(seen.sum(), reduce=self.reduce_normalizer)
        return tuple((one * seen).sum() * ranks / count.clamp(min=1) for one in (dice, bce))  # type: ignore[return-value]

    def _inside(self, sizes: Sequence[tuple[int, int]], features: Tensor) -> Tensor:
        """(B, h, w) bool, cells whose centre lies in the image; elsewhere the memory is neither zero nor meaningful."""
        height, width = features.shape[2:]
        inside = torch.zeros(len(sizes), height, width, dtype=torch.bool, device=features.device)
        for cells, (h, w) in zip(inside, sizes, strict=True):
            rows = valid_cells(h, height, self.pixel_stride, self.pixel_offset)
            columns = valid_cells(w, width, self.pixel_stride, self.pixel_offset)
            cells[:rows, :columns] = True
        return inside


def pixel_logits(queries: Tensor, image_index: Tensor, maps: Tensor) -> Tensor:
    """(Q, h, w) logits of queries (Q, P + 1) on the maps (B, P, h, w) of their images (Q,)."""
    return dot_product_maps(queries[:, :-1], image_index, maps) + queries[:, -1, None, None]


def small_masks(masks: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """(K, *size) bool: cells of stride x stride pixels at least half of which lie in the masks (K, H, W) bool."""
    padded = F.pad(masks, (0, stride * size[1] - masks.shape[2], 0, stride * size[0] - masks.shape[1]))
    return F.avg_pool2d(padded[:, None].float(), stride)[:, 0] >= 0.5
