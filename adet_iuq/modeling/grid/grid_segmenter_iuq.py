"""What grid segmenters offer to instance-unique querying (docs/parity/solov2.md, "Instance-unique querying")."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling.grid.grid_segmenter import STRIDE, GridSegmenter
from adet_iuq.modeling.grid.losses import DICE_EPSILON, mask_logits
from adet_iuq.modeling.grid.quarter_masks import quarter_masks
from adet_iuq.modeling.iuq_meta_arch import IUQMetaArch
from adet_iuq.modeling.layers import dice_losses, loss_count


class GridSegmenterIUQ(IUQMetaArch, GridSegmenter):
    """A mixin that stands before a grid segmenter: `class SOLOv2IUQ(GridSegmenterIUQ, SOLOv2)`.

    Queries are the kernels of positive grid cells, several per instance; pixels are the channels of the dense map. <q,
    i> is their dot product, which needs no position.
    """

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        """The dense map's channels."""
        return {"pixel_dim": base["mask_head"].out_channels}

    @classmethod
    def mask_loss_factor(cls, cfg: CfgNode, base: Mapping[str, Any]) -> float:
        """The weight of the mask loss, which is 3 in the published recipes."""
        return float(base["loss_settings"].mask_weight)

    def mask_cells(self, masks: Tensor, map_size: tuple[int, int]) -> Tensor:
        """The published quarter-size masks, which read two or four of the pixels that a cell covers."""
        return quarter_masks(masks, map_size) > 0

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits; the kernels are applied to pixels of other images as to those of their own."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return mask_logits(queries.embeddings, queries.image_index, maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base dice loss over the cells in `valid`, without its weight.

        It differs in two ways from the base loss on the same view, so that it is zero if queries and map are equivariant.
        First, the published quarter-size masks are stretched by up to half a cell if 4 does not divide the image's sides;
        here the masks are filled up to a multiple of 4, so that their cells lie where g puts the map's. Second, a query is
        left out if no cell of its instance is visible, because its loss would be 1 whatever it retrieves.
        """
        size = (logits.shape[1], logits.shape[2])
        image, instance = scene.queries.image_index, scene.queries.target_index
        masks, areas = [], torch.zeros(len(image), device=logits.device)
        for index, mask in enumerate(scene.masks):
            filled_up = F.pad(mask, (0, -mask.shape[2] % STRIDE, 0, -mask.shape[1] % STRIDE))
            masks.append(quarter_masks(filled_up, size) * valid[index])
            mine = image == index
            areas[mine] = masks[-1].flatten(1).sum(1)[instance[mine]]
        losses = dice_losses(logits, image, instance, masks, valid, epsilon=DICE_EPSILON)
        visible = areas > 0
        count, factor = loss_count(visible.sum(), reduce=self.loss_settings.reduce_normalizer)
        return (losses * visible).sum() * factor / count.clamp(min=1)
