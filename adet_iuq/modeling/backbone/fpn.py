"""Feature pyramids over any bottom-up network: with FCOS's extra levels (CondInst), or with a p6 (SOLOv2, SOTR)."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone.deformable import build_deformable_resnet
from adet_iuq.modeling.backbone.swin import D2SwinTransformer
from adet_iuq.modeling.backbone.timm import build_timm_backbone


class LastLevelP6(nn.Module):
    """One level above p5 (`MODEL.FCOS.TOP_LEVELS 1`)."""

    num_levels = 1

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_feature = "p5"
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[p6] from the output p5."""
        return [self.p6(x)]


def build_fcos_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """The pyramid over `MODEL.FPN.IN_FEATURES` with `MODEL.FCOS.TOP_LEVELS` levels computed from its output p5.

    Raises:
        UserError: the bottom-up network lacks a feature that the pyramid needs, or the number of levels is not 0, 1, 2.
    """
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    levels = cfg.MODEL.FCOS.TOP_LEVELS
    if levels not in (0, 1, 2):
        raise UserError(f"MODEL.FCOS.TOP_LEVELS is {levels}; it can be 0, 1 or 2.")
    top_block = [
        lambda: None,
        lambda: LastLevelP6(channels, channels),
        lambda: LastLevelP6P7(channels, channels, in_feature="p5"),
    ][levels]()
    return _build_fpn(cfg, bottom_up, top_block)


def build_max_pool_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """The pyramid of detectron2's `build_resnet_fpn_backbone`: p6 is every second cell of p5.

    Raises:
        UserError: the bottom-up network lacks a feature that the pyramid needs.
    """
    return _build_fpn(cfg, bottom_up, LastLevelMaxPool())


def _build_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module | None) -> FPN:
    offered = bottom_up.output_shape()
    missing = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in offered]
    if missing:
        raise UserError(f"MODEL.FPN.IN_FEATURES names {missing}; the bottom-up network offers {list(offered)}.")
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The published recipes' backbone: the pyramid over detectron2's ResNet, or over this project's if it is deformable."""
    return build_fcos_fpn(cfg, build_deformable_resnet(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_fcos_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Any timm `features_only` model (`MODEL.TIMM.NAME`) under the pyramid."""
    return build_fcos_fpn(cfg, build_timm_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_fcos_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Swin as Mask2Former publishes it (`MODEL.SWIN`) under the pyramid. OUT_FEATURES without "res2" saves one norm."""
    return build_fcos_fpn(cfg, D2SwinTransformer(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Any timm `features_only` model under the pyramid of SOLOv2 and SOTR."""
    return build_max_pool_fpn(cfg, build_timm_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Swin as Mask2Former publishes it under the pyramid of SOLOv2 and SOTR."""
    return build_max_pool_fpn(cfg, D2SwinTransformer(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_deformable_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """detectron2's `build_resnet_fpn_backbone` (p6 is every second cell of p5) over `build_deformable_resnet`."""
    return build_max_pool_fpn(cfg, build_deformable_resnet(cfg, input_shape))
