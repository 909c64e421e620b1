"""The backbone that a config names."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone as build_named_backbone
from detectron2.modeling.backbone import Backbone

from adet_iuq.modeling.backbone.deformable import build_deformable_resnet
from adet_iuq.modeling.backbone.fpn import build_deformable_resnet_fpn_backbone

_RESNETS = {
    "build_resnet_backbone": build_deformable_resnet,
    "build_resnet_fpn_backbone": build_deformable_resnet_fpn_backbone,
}


def build_backbone(cfg: CfgNode) -> Backbone:
    """The network registered as `MODEL.BACKBONE.NAME`.

    Where `MODEL.RESNETS.DEFORM_ON_PER_STAGE` names stages, detectron2's ResNets are replaced by this project's, which
    have the same parameters: detectron2's own deformable blocks need compiled code and cannot train on a CPU.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name in _RESNETS and any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        return _RESNETS[name](cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    return build_named_backbone(cfg)
