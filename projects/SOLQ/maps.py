"""What the encoder knows of maps besides their features: padding, sizes, positions (docs/parity/solq.md, "Padding").

Shapes: B images, L maps of (h_l, w_l) cells, S cells of all maps one after the other, each map row by row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_TEMPERATURE = 10000


@dataclass
class MapGeometry:
    """The geometry of the L maps of a batch."""

    sizes: list[tuple[int, int]]  # L x (h_l, w_l)
    inside: list[Tensor]  # L x (B, h_l, w_l) bool, cells that are not padding

    @classmethod
    def of(cls, image_sizes: Sequence[tuple[int, int]], maps: Sequence[Tensor], frame: Tensor) -> "MapGeometry":
        """
        Args:
            image_sizes: B x (height, width) before padding.
            maps: L x (B, C_l, h_l, w_l).
            frame: (B, 3, Hp, Wp), the padded images.
        """
        pixels = frame.new_zeros(len(frame), 1, *frame.shape[2:])
        for one, (height, width) in zip(pixels, image_sizes, strict=True):
            one[:, :height, :width] = 1
        sizes = [(one.shape[2], one.shape[3]) for one in maps]
        return cls(sizes, [F.interpolate(pixels, size)[:, 0].bool() for size in sizes])

    @property
    def padding(self) -> Tensor:
        """(B, S) bool, whether each cell is padding."""
        return ~torch.cat([one.flatten(1) for one in self.inside], dim=1)

    def valid_ratios(self) -> Tensor:
        """(B, L, 2) float32, the share of each map's width and height that is not padding."""
        return torch.stack(
            [torch.stack([o[:, 0].float().mean(1), o[:, :, 0].float().mean(1)], 1) for o in self.inside], 1
        )

    def references(self) -> Tensor:
        """(B, S, L, 2) float32: the centre x, y of every cell, as a share of each of the maps."""
        ratios, centres = self.valid_ratios(), []
        for level, (height, width) in enumerate(self.sizes):
            y = (torch.arange(height, device=ratios.device) + 0.5) / (ratios[:, level, 1, None] * height)
            x = (torch.arange(width, device=ratios.device) + 0.5) / (ratios[:, level, 0, None] * width)
            grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
            centres.append(grid.flatten(1, 2))
        return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]


def sine_positions(inside: Tensor, channels: int) -> Tensor:
    """(B, h * w, channels) float32 sines and cosines of every cell: first half of y, second half of x, in turn.

    The i-th cell of n stands at 2 pi (i + 0.5) / n; padding is not counted.

    Args:
        inside: (B, h, w) bool.
        channels: a multiple of 4.
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=inside.device), 2, rounding_mode="floor") / half
    axes = []
    for axis in (1, 2):
        steps = inside.cumsum(axis, dtype=torch.float32)
        total = steps.narrow(axis, steps.shape[axis] - 1, 1)
        angles = ((steps - 0.5) / (total + 1e-6) * (2 * math.pi))[..., None] / _TEMPERATURE**exponent
        axes.append(torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(3))
    return torch.cat(axes, dim=3).flatten(1, 2)
