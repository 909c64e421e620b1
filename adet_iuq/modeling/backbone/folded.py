"""Convolutions that compute the frozen norm behind them with their own weights.

A frozen norm multiplies every channel by a constant and adds one. detectron2 does so in two passes over the whole map, and
in one more pass in the backward pass. A convolution with scaled weights and a bias has the same result without any of them.
"""

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class FoldedConv2d(Conv2d):
    """detectron2's convolution with a FrozenBatchNorm2d in `norm`; parameters and buffers keep their names."""

    norm: FrozenBatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the normed and activated map, up to rounding that of detectron2."""
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        shift = self.norm.bias - self.norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale.view(-1, 1, 1, 1)
        out = F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        return out if self.activation is None else self.activation(out)


def fold_frozen_norms(module: nn.Module) -> None:
    """Changes the class of all convolutions below `module` that stand before a frozen norm. The state dict stays the same.

    Args:
        module: a backbone with detectron2's layers.
    """
    for one in module.modules():
        if type(one) is Conv2d and type(one.norm) is FrozenBatchNorm2d:
            one.__class__ = FoldedConv2d
