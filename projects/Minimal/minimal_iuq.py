"""Minimal with instance-unique querying: all that the method asks of a segmenter."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling import IUQMetaArch
from adet_iuq.modeling.layers import dot_product_maps

from .minimal import Minimal, mean_dice


@META_ARCH_REGISTRY.register()
class MinimalIUQ(IUQMetaArch, Minimal):
    """The same trained with `loss_inter` and `loss_equi`; its weights and its evaluation are Minimal's."""

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        return {"pixel_dim": base["dim"]}

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits of all queries on pixels of any image."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return dot_product_maps(queries.embeddings, queries.image_index, maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base dice loss, without its weight, over the cells in `valid`."""
        return mean_dice(logits, scene.queries.image_index, scene.queries.target_index, scene.masks, valid)
