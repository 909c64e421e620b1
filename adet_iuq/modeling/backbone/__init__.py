"""Backbones: feature pyramids with FCOS's extra levels, deformable ResNets, Swin as published, and the bridge to timm."""

from adet_iuq.modeling.backbone.bifpn import BiFPN, build_fcos_resnet_bifpn_backbone
from adet_iuq.modeling.backbone.build import build_backbone
from adet_iuq.modeling.backbone.deformable import DeformableBottleneck, build_deformable_resnet
from adet_iuq.modeling.backbone.fpn import (
    LastLevelP6,
    build_deformable_resnet_fpn_backbone,
    build_fcos_fpn,
    build_fcos_resnet_fpn_backbone,
    build_fcos_swin_fpn_backbone,
    build_fcos_timm_fpn_backbone,
    build_max_pool_fpn,
    build_swin_fpn_backbone,
    build_timm_fpn_backbone,
)
from adet_iuq.modeling.backbone.swin import D2SwinTransformer
from adet_iuq.modeling.backbone.timm import TimmBackbone, build_timm_backbone

__all__ = [
    "BiFPN",
    "D2SwinTransformer",
    "DeformableBottleneck",
    "LastLevelP6",
    "TimmBackbone",
    "build_backbone",
    "build_deformable_resnet",
    "build_deformable_resnet_fpn_backbone",
    "build_fcos_fpn",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_swin_fpn_backbone",
    "build_fcos_timm_fpn_backbone",
    "build_max_pool_fpn",
    "build_swin_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
]
