"""SOLOv2: grid cells as queries, one dense map, dynamic 1x1 convolutions (arXiv 2003.10152).

The published model under its published names; its facts are in docs/parity/solov2.md. What it shares with SOTR
stands in `adet_iuq.modeling.grid`.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.grid import GridMaps, GridSegmenter, coordinate_maps, grid_segmenter_arguments
from adet_iuq.modeling.solov2.instance_head import COORDINATES, InstanceHead


@META_ARCH_REGISTRY.register()
class SOLOv2(GridSegmenter):
    """The base segmenter, without instance-unique querying."""

    @configurable
    def __init__(self, *, ins_head: InstanceHead, **shared: Any) -> None:
        """
        Args:
            ins_head: predicts classes and queries.
            shared: the arguments of `GridSegmenter`.
        """
        super().__init__(**shared)
        self.ins_head = ins_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from MODEL.SOLOV2 and MODEL.BACKBONE."""
        top_channels = cfg.MODEL.SOLOV2.MASK_IN_CHANNELS + COORDINATES
        head = InstanceHead(cfg)
        return {"ins_head": head, **grid_segmenter_arguments(cfg, "SOLOV2", build_backbone(cfg), top_channels)}

    def predict(self, features: dict[str, Tensor]) -> GridMaps:
        """The class logits, the queries and the dense map; the mask branch's coarsest map contains coordinates."""
        class_logits, kernels = self.ins_head(self.instance_inputs(features))
        maps = [features[name] for name in self.mask_in_features]
        maps[-1] = torch.cat([maps[-1], coordinate_maps(maps[-1]).expand(len(maps[-1]), -1, -1, -1)], dim=1)
        return GridMaps(class_logits, kernels, self.mask_head(maps))
