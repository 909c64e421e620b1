"""Positions of a map's cells as sines and cosines (arXiv 2005.12872)."""

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000


def sine_positions(size: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """(h * w, channels) encoding of all cells, row by row: first half of y, second half of x, sine and cosine alternate.

    Row i of h stands at 2 pi (i + 1) / h (docs/parity/mask2former.md, "Positions"); no half-cell shift.

    Args:
        size: (h, w) of the map.
        channels: the number of channels, a multiple of 4.
        like: a tensor whose device and dtype the result gets.
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=like.device), 2, rounding_mode="floor") / half
    axes = []
    for length in size:
        steps = torch.arange(1, length + 1, device=like.device, dtype=torch.float32)
        angles = (steps / (length + 1e-6) * (2 * math.pi))[:, None] / _TEMPERATURE**exponent
        axes.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1))
    rows, columns = axes
    grid = (rows[:, None].expand(-1, size[1], -1), columns[None].expand(size[0], -1, -1))
    return torch.cat(grid, dim=2).flatten(0, 1).to(like.dtype)
