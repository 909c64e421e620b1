"""SOTR: a transformer on grids over the image makes class logits and 1x1 dynamic kernels (arXiv 2108.06747).

The published model under its published names; parity spec in ../shared/parity/sotr/spec.md. Grids, targets, losses,
mask branch and inference are SOLOv2's.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.modeling.layers.grid_segmenter import GridMaps, GridSegmenter
from adet_iuq.modeling.sotr.head import TransformerHead


@META_ARCH_REGISTRY.register()
class SOTR(GridSegmenter):
    """The base segmenter, complete by itself."""

    section = "SOTR"

    @configurable
    def __init__(self, *, cate_head: TransformerHead, **shared: Any) -> None:
        """
        Args:
            cate_head: makes class logits and kernels.
            shared: what `GridSegmenter` takes.
        """
        super().__init__(**shared)
        self.cate_head = cate_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"cate_head": TransformerHead(cfg), **cls.shared_config(cfg)}

    def predict(self, features: dict[str, Tensor]) -> GridMaps:
        """Class logits, kernels and the dense map, from the backbone's maps."""
        class_logits, kernels = self.cate_head(self.instance_inputs(features))
        *finer, coarsest = (features[name] for name in self.mask_in_features)
        dense = self.mask_head([*finer, self.cate_head.transformer(coarsest)])
        return GridMaps(class_logits, kernels, dense)
