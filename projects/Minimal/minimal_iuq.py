"""Minimal with instance-unique querying: this is everything that the method needs from a segmenter."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling import IUQMetaArch

from .minimal import Minimal, far_away, mask_logits, mean_dice, squared_distances


@META_ARCH_REGISTRY.register()
class MinimalIUQ(IUQMetaArch, Minimal):
    """Minimal trained with `loss_inter` and `loss_equi`; its weights and its evaluation are Minimal's."""

    bytes_per_pair = 40  # for coordinate differences and their squares

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        return {"pixel_dim": base["dim"]}

    @classmethod
    def mask_loss_factor(cls, cfg: CfgNode, base: Mapping[str, Any]) -> float:
        return float(base["mask_weight"])

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits of all queries on pixels of any image."""
        squared = squared_distances(queries.context["location"], pixels.locations)
        return queries.embeddings[:, :-1] @ pixels.features.T - far_away(queries.embeddings, squared)

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return mask_logits(queries.embeddings, queries.image_index, queries.context["location"], maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base dice loss, without its weight, over the cells in `valid`."""
        return mean_dice(logits, scene.queries.image_index, scene.queries.target_index, scene.masks, valid)
