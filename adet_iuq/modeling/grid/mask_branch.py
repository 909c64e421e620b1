"""The mask branch of grid segmenters: the dense map I of the paper's Eq. 4 (docs/parity/solov2.md, "Mask branch")."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers.deform_conv import DeformableConv

GROUPS = 32  # groups of every GroupNorm


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm, which also accepts a group of a single value: its output is then the bias.

    If MASK_CHANNELS is 32, each group has one channel. If then a lone image has at most 32 pixels a side, its coarsest
    map is one cell, so each group is a single value. With the published 128 channels a group has four values.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def conv_block(conv: nn.Module, channels: int, norm: str) -> nn.Sequential:
    """A convolution to `channels`, a GroupNorm if `norm` is "GN", and a ReLU."""
    layers = [GroupNorm(GROUPS, channels)] if norm == "GN" else []
    return nn.Sequential(conv, *layers, nn.ReLU())


def check_norm(norm: str, *channels: int) -> None:
    """Raises UserError unless NORM is known and the channels fit it."""
    if norm not in ("GN", "none"):
        raise UserError(f'NORM is "{norm}"; it can be "GN" or "none".')
    uneven = [count for count in channels if count % GROUPS]
    if uneven:
        raise UserError(f"GroupNorm has {GROUPS} groups: make the channels {uneven} a multiple of {GROUPS}.")


def init_normal(module: nn.Module) -> None:
    """Draws the weights of all convolutions from N(0, 0.01^2); biases and the offsets of deformable ones become 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, DeformConv2d)):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, DeformableConv):
            layer.reset_offsets()


class GridMaskBranch(nn.Module):
    """Brings maps of strides 4, 8, 16, 32 to stride 4, adds them, and mixes the channels."""

    def __init__(self, *, in_channels: Sequence[int], channels: int, out_channels: int, norm: str) -> None:
        """
        Args:
            in_channels: the channels of the maps, finest first.
            channels: the channels inside the branch.
            out_channels: the channels D of the result.
            norm: "GN" or "none"; the last convolution has its GroupNorm either way.

        Raises:
            UserError: the norm is unknown, or the channels do not fit it.
        """
        super().__init__()
        check_norm(norm, out_channels, *([channels] if norm == "GN" else []))
        bias = norm == "none"
        self.out_channels = out_channels
        self.convs_all_levels = nn.ModuleList()
        for level, entering in enumerate(in_channels):
            widths = [entering] + [channels] * max(level, 1)
            convs = [nn.Conv2d(a, b, 3, padding=1, bias=bias) for a, b in pairwise(widths)]
            blocks = {f"conv{index}": conv_block(conv, channels, norm) for index, conv in enumerate(convs)}
            self.convs_all_levels.append(nn.ModuleDict(blocks))
        self.conv_pred = conv_block(nn.Conv2d(channels, out_channels, 1, bias=bias), out_channels, "GN")
        init_normal(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, D, Hp/4, Wp/4), which is not negative, from maps (B, in_channels[l], Hp / 2^(l+2), Wp / 2^(l+2))."""
        merged: Tensor | None = None
        for level, (blocks, x) in enumerate(zip(self.convs_all_levels, maps, strict=True)):
            for block in blocks.children():
                x = block(x)
                if level > 0:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            merged = x if merged is None else merged + x
        out: Tensor = self.conv_pred(merged)
        return out


def coordinate_maps(like: Tensor) -> Tensor:
    """(1, 2, h, w) in the size and dtype of (..., h, w): x and y from -1 to 1, both ends included; a single cell has -1."""
    y, x = (torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype) for n in like.shape[-2:])
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])[None]
