"""ResNets with deformable 3x3 convolutions (arXiv 1703.06211; modulated: 1811.11168), on torchvision's operator.

detectron2's own deformable blocks need its compiled code and cannot train on a CPU. Parameters have its names, options
are its `MODEL.RESNETS.*` keys; without deformable stages the networks are detectron2's. Of SOTR:
docs/parity/sotr.md, "Deformable variant".
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers.deform_conv import split_offsets

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_POINTS = 9  # points of a 3x3 kernel


class DeformableBottleneck(BottleneckBlock):
    """A bottleneck whose 3x3 convolution reads at learned offsets and, if modulated, weighs what it reads.

    `conv2_offset` predicts, for each group of channels, (dy, dx) of the nine points row by row, then their weights
    before the sigmoid. It starts at zero, which makes a plain convolution, times 0.5 when modulated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        deform_modulated: bool,
        deform_num_groups: int,
        **options: Any,
    ) -> None:
        """
        Args:
            in_channels: channels of the block's input.
            out_channels: channels of its output.
            bottleneck_channels: channels of the 3x3 convolution, a multiple of `deform_num_groups`.
            deform_modulated: whether the points are weighed.
            deform_num_groups: number of groups of channels, each with offsets of its own.
            options: further arguments of `BottleneckBlock`.
        """
        super().__init__(in_channels, out_channels, bottleneck_channels=bottleneck_channels, **options)
        self.modulated = deform_modulated
        plain = self.conv2
        self.conv2_offset = Conv2d(
            bottleneck_channels,
            (3 if deform_modulated else 2) * _POINTS * deform_num_groups,
            kernel_size=3,
            stride=plain.stride,
            padding=plain.padding,
            dilation=plain.dilation,
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out = F.relu_(self.conv1(x))
        out = F.relu_(self._deformable(out))
        out = self.conv3(out)
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))

    def _deformable(self, x: Tensor) -> Tensor:
        conv = self.conv2
        predicted = self.conv2_offset(x)
        # The operator has no half-precision kernel on CPUs, and positions lose too many digits in half precision anywhere.
        with torch.autocast(x.device.type, enabled=False):
            weight = conv.weight
            offset, mask = split_offsets(predicted.to(weight.dtype), self.modulated)
            out = deform_conv2d(
                x.to(weight.dtype), offset, weight, None, conv.stride, conv.padding, conv.dilation, mask
            )
            return out if conv.norm is None else conv.norm(out)


def build_deformable_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The ResNet of `MODEL.RESNETS.*`, in which the stages of `DEFORM_ON_PER_STAGE` (res2 to res5) are deformable.

    Raises:
        UserError: ResNets do not have this depth, or ResNet-18 and 34 do not have these options.
    """
    options = cfg.MODEL.RESNETS
    if options.DEPTH not in _BLOCKS:
        raise UserError(f"MODEL.RESNETS.DEPTH is {options.DEPTH}; it can be {', '.join(map(str, _BLOCKS))}.")
    if options.DEPTH < 50 and (any(options.DEFORM_ON_PER_STAGE) or options.RES2_OUT_CHANNELS != 64):
        raise UserError(
            f"MODEL.RESNETS.DEPTH {options.DEPTH} needs RES2_OUT_CHANNELS 64 and no stage in DEFORM_ON_PER_STAGE: "
            "deformable convolutions stand in bottlenecks, which start with depth 50."
        )
    stem = BasicStem(in_channels=input_shape.channels, out_channels=options.STEM_OUT_CHANNELS, norm=options.NORM)
    stages = []
    in_channels = options.STEM_OUT_CHANNELS
    for index, num_blocks in enumerate(_BLOCKS[options.DEPTH]):
        dilation = options.RES5_DILATION if index == 3 else 1
        stride = 1 if index == 0 or dilation == 2 else 2
        out_channels = options.RES2_OUT_CHANNELS * 2**index
        stages.append(
            ResNet.make_stage(
                num_blocks=num_blocks,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=options.NORM,
                **_block_options(options, index, dilation),
            )
        )
        in_channels = out_channels
    return ResNet(stem, stages, out_features=options.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _block_options(options: CfgNode, index: int, dilation: int) -> dict[str, Any]:
    """The class of a stage's blocks, and the further arguments that it takes; `options` is MODEL.RESNETS."""
    if options.DEPTH < 50:
        return {"block_class": BasicBlock}
    bottleneck = {
        "bottleneck_channels": options.NUM_GROUPS * options.WIDTH_PER_GROUP * 2**index,
        "num_groups": options.NUM_GROUPS,
        "stride_in_1x1": options.STRIDE_IN_1X1,
        "dilation": dilation,
    }
    if not options.DEFORM_ON_PER_STAGE[index]:
        return {"block_class": BottleneckBlock, **bottleneck}
    return {
        "block_class": DeformableBottleneck,
        "deform_modulated": options.DEFORM_MODULATED,
        "deform_num_groups": options.DEFORM_NUM_GROUPS,
        **bottleneck,
    }
