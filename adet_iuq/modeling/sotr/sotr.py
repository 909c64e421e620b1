"""SOTR: a transformer on grids over the image makes class logits and 1x1 dynamic kernels (arXiv 2108.06747).

The published model under its published names; its facts are in docs/parity/sotr.md. What it shares with
SOLOv2 (grids, targets, losses, mask branch, inference) stands in `adet_iuq.modeling.grid`.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.grid import GridMaps, GridSegmenter, grid_segmenter_arguments
from adet_iuq.modeling.sotr.head import TransformerHead


@META_ARCH_REGISTRY.register()
class SOTR(GridSegmenter):
    """The base segmenter, without instance-unique querying."""

    @configurable
    def __init__(self, *, cate_head: TransformerHead, **shared: Any) -> None:
        """
        Args:
            cate_head: predicts classes and queries, and transforms p5 for the mask branch.
            shared: the arguments of `GridSegmenter`.
        """
        super().__init__(**shared)
        self.cate_head = cate_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from MODEL.SOTR and MODEL.BACKBONE."""
        head = TransformerHead(cfg)
        channels = cfg.MODEL.SOTR.INSTANCE_IN_CHANNELS
        return {"cate_head": head, **grid_segmenter_arguments(cfg, "SOTR", build_backbone(cfg), top_channels=channels)}

    def predict(self, features: dict[str, Tensor]) -> GridMaps:
        """The class logits, the queries and the dense map; the mask branch's coarsest map has passed the transformer."""
        class_logits, kernels = self.cate_head(self.instance_inputs(features))
        maps = [features[name] for name in self.mask_in_features]
        maps[-1] = self.cate_head.transformer(maps[-1])
        return GridMaps(class_logits, kernels, self.mask_head(maps))
