"""SOLQ with instance-unique querying, as we read it: everything that the method needs from it (see pixel_solq.py)."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling import IUQMetaArch

from .pixel_solq import PixelSOLQ, pixel_logits, small_masks


@META_ARCH_REGISTRY.register()
class SOLQIUQ(IUQMetaArch, PixelSOLQ):
    """PixelSOLQ trained with `loss_inter` and `loss_equi`; its evaluation is SOLQ's.

    Queries are the projected states of the queries matched after
    the last layer; pixels are projected cells of the finest map.
    """

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        return {"pixel_dim": base["heads_dim"]}

    @classmethod
    def mask_loss_factor(cls, cfg: CfgNode, base: Mapping[str, Any]) -> float:
        return float(base["pixel_weight"])

    def base_mask_loss(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The intra-image term, because it alone reads the projected queries."""
        return losses["loss_pixel_dice"] + losses["loss_pixel_bce"]

    def mask_cells(self, masks: Tensor, map_size: tuple[int, int]) -> Tensor:
        """The cells that the intra-image term puts inside an instance."""
        return small_masks(masks, self.pixel_stride, map_size)

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits of all queries on pixels of any image."""
        return queries.embeddings[:, :-1] @ pixels.features.T + queries.embeddings[:, -1:]

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, h, w) logits of every query on its own image's map."""
        return pixel_logits(queries.embeddings, queries.image_index, maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The dice loss and the cross-entropy without their weight, over the cells in `valid`."""
        queries = scene.queries
        dice, bce = self.pixel_losses(logits, queries.image_index, queries.target_index, scene.masks, valid)
        return dice + bce
