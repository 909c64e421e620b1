"""The instance context encoder: one map at stride 8 from three of the backbone (docs/parity/sparseinst.md, "Encoder")."""

from collections.abc import Mapping, Sequence

import torch
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes (B, C, h, w) to (B, C, *size), bilinearly, without antialiasing."""
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Adds context of several ranges to a map's own channels."""

    def __init__(self, channels: int, sizes: Sequence[int] = (1, 2, 3, 6)) -> None:
        """
        Args:
            channels: the channels of the map, a multiple of 4.
            sizes: the sizes of the grids that the map is averaged to.
        """
        super().__init__()
        width = channels // 4
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(channels, width, 1)) for size in sizes
        )
        self.bottleneck = nn.Conv2d(channels + len(sizes) * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        context = [resized(F.relu(stage(x)), x.shape[2:]) for stage in self.stages]
        return F.relu(self.bottleneck(torch.cat([*context, x], dim=1)))


class InstanceContextEncoder(nn.Module):
    """A feature pyramid with pyramid pooling, whose levels are fused at the finest one's size."""

    def __init__(self, in_channels: Mapping[str, int], channels: int) -> None:
        """
        Args:
            in_channels: the channels of the backbone's maps by name,
                finest first; each map is half as large as the one before.
            channels: the channels C of the result.
        """
        super().__init__()
        self.in_features = list(in_channels)
        coarse_first = list(in_channels.values())[::-1]
        self.fpn_laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in coarse_first)
        self.fpn_outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in coarse_first)
        self.ppm = PyramidPooling(channels)
        self.fusion = nn.Conv2d(len(coarse_first) * channels, channels, 1)
        for layer in (*self.fpn_laterals, *self.fpn_outputs):
            c2_xavier_fill(layer)
        c2_msra_fill(self.fusion)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """The backbone's maps to one map (B, C, h, w) of the finest one's size."""
        coarse_first = [features[name] for name in reversed(self.in_features)]
        level = self.ppm(self.fpn_laterals[0](coarse_first[0]))
        levels = [level]
        for lateral, finer in zip(self.fpn_laterals[1:], coarse_first[1:], strict=True):
            level = lateral(finer) + F.interpolate(level, scale_factor=2.0, mode="nearest")
            levels.append(level)
        fine_first = [output(one) for output, one in zip(self.fpn_outputs, levels, strict=True)][::-1]
        size = fine_first[0].shape[2:]
        fused: Tensor = self.fusion(torch.cat([fine_first[0], *(resized(one, size) for one in fine_first[1:])], dim=1))
        return fused
