"""ResNet-50-D and 101-D ("vd"): a deep stem, averaging shortcuts, and optionally deformable 3x3 convolutions.

The networks are timm's, with the names of the published checkpoints (`layer1.0.conv1`, ...). Deformable convolutions
use torchvision's operator.
"""

from typing import Any

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from adet_iuq.errors import UserError

_DEPTHS = (50, 101)
_STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
_NAMES = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}
_OFFSETS = 18  # dy, dx of the nine points of a 3x3 kernel


class DeformableBottleneck(nn.Module):
    """timm's bottleneck whose 3x3 convolution reads at learned offsets (arXiv 1703.06211); it starts as a plain one."""

    def __init__(self, plain: Bottleneck) -> None:
        """
        Args:
            plain: the block whose layers are taken over.
        """
        super().__init__()
        self.conv1, self.bn1, self.act1 = plain.conv1, plain.bn1, plain.act1
        self.conv2, self.bn2, self.act2 = plain.conv2, plain.bn2, plain.act2
        self.conv3, self.bn3, self.act3 = plain.conv3, plain.bn3, plain.act3
        self.downsample = plain.downsample
        self.conv2_offset = nn.Conv2d(plain.conv2.in_channels, _OFFSETS, 3, plain.conv2.stride[0], padding=1)
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self._deformable(out)))
        out = self.bn3(self.conv3(out)) + shortcut
        return self.act3(out)

    def _deformable(self, x: Tensor) -> Tensor:
        offsets, weight = self.conv2_offset(x), self.conv2.weight
        # The operator has no half-precision kernel on CPUs, and positions lose too many digits in half precision anywhere.
        with torch.autocast(x.device.type, enabled=False):
            x, offsets = x.to(weight.dtype), offsets.to(weight.dtype)
            return deform_conv2d(x, offsets, weight, None, self.conv2.stride, self.conv2.padding)


class ResNetVd(Backbone):
    """The network, with its levels of strides 4, 8, 16 and 32 as "res2" to "res5"."""

    def __init__(
        self, depth: int, *, out_features: list[str], frozen_norms: bool, deformable: list[bool], pretrained: bool
    ) -> None:
        """
        Args:
            depth: 50 or 101.
            out_features: the names of the outputs.
            frozen_norms: whether BatchNorm layers are constants.
            deformable: for each stage, whether its blocks are deformable.
            pretrained: whether timm's own weights are downloaded and loaded.

        Raises:
            UserError: the depth is another one, an output does not exist, or weights cannot be downloaded.
        """
        super().__init__()
        if depth not in _DEPTHS:
            raise UserError(
                f"MODEL.RESNETS.DEPTH is {depth}; the vd networks here are {' and '.join(map(str, _DEPTHS))}."
            )
        if not set(out_features) <= set(_NAMES.values()):
            raise UserError(f"MODEL.RESNETS.OUT_FEATURES is {out_features}; there are {', '.join(_NAMES.values())}.")
        # If no weights are loaded, a frozen norm that starts at zero would silence its branch for good.
        options: dict[str, Any] = {
            "features_only": True,
            "out_indices": (1, 2, 3, 4),
            "zero_init_last": not frozen_norms,
        }
        try:
            network: Any = timm.create_model(f"resnet{depth}d", pretrained=pretrained, **options)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"timm cannot download its weights of resnet{depth}d ({error}). Set MODEL.TIMM.PRETRAINED False, and "
                "MODEL.WEIGHTS to a file with the network's or the whole model's weights."
            ) from error
        for (name, layer), deform in zip(((name, network[name]) for name in _NAMES), deformable, strict=True):
            if deform:
                network[name] = nn.Sequential(*(DeformableBottleneck(block) for block in layer))
        for name, layer in network.items():
            self.add_module(name, FrozenBatchNorm2d.convert_frozen_batchnorm(layer) if frozen_norms else layer)
        self._out_features = out_features
        channels = dict(zip(_NAMES.values(), network.feature_info.channels(), strict=True))
        self._out_feature_channels = {name: channels[name] for name in out_features}
        self._out_feature_strides = {name: _STRIDES[layer] for layer, name in _NAMES.items() if name in out_features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) to one map (B, channels, H / stride, W / stride) per name."""
        maps = {}
        for name, layer in self.named_children():
            x = layer(x)
            if _NAMES.get(name) in self._out_features:
                maps[_NAMES[name]] = x
        return maps


@BACKBONE_REGISTRY.register()
def build_resnet_vd_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetVd:
    """The network of `MODEL.RESNETS.*`, for `MODEL.BACKBONE.NAME`; MODEL.TIMM.PRETRAINED loads timm's weights.

    Raises:
        UserError: the network does not have an option.
    """
    options = cfg.MODEL.RESNETS
    if cfg.MODEL.BACKBONE.FREEZE_AT or options.DEFORM_MODULATED or options.NORM not in ("FrozenBN", "BN"):
        raise UserError(
            "build_resnet_vd_backbone has MODEL.BACKBONE.FREEZE_AT 0, MODEL.RESNETS.DEFORM_MODULATED False and "
            f"MODEL.RESNETS.NORM FrozenBN or BN only; asked for are {cfg.MODEL.BACKBONE.FREEZE_AT}, "
            f"{options.DEFORM_MODULATED} and {options.NORM}."
        )
    return ResNetVd(
        options.DEPTH,
        out_features=list(options.OUT_FEATURES),
        frozen_norms=options.NORM == "FrozenBN",
        deformable=list(options.DEFORM_ON_PER_STAGE),
        pretrained=cfg.MODEL.TIMM.PRETRAINED,
    )
