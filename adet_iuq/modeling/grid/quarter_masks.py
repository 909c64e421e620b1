"""Masks at quarter size, to the bit as the published segmenters scale them (docs/parity/solov2.md, "Quarter-size masks").

These use OpenCV's bilinear resize of 8-bit images: it has integer weights in units of 1 / 2048 and truncates between the two
axes, which matters for images of zeros and ones. This module computes the same integers on the masks' own device.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def quarter_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks at a quarter of their size, placed at the top left of a larger map of zeros.

    Args:
        masks: (K, h, w) bool, at the network input's resolution.
        size: (Hf, Wf) of the result, at least (int(h / 4 + 0.5), int(w / 4 + 0.5)).

    Returns:
        (K, Hf, Wf) float32 of 0 and 1. The mask of a thin instance can be empty.
    """
    height, width = (int(side / 4 + 0.5) for side in masks.shape[1:])
    if min(height, width, len(masks)) == 0:
        return torch.zeros(len(masks), *size, device=masks.device)
    rows, row_weights = _taps(masks.shape[1], height, masks.device)
    columns, column_weights = _taps(masks.shape[2], width, masks.device)
    total = torch.full((), 2, dtype=torch.int32, device=masks.device)
    for row, down in zip(rows, row_weights, strict=True):
        lines = masks[:, row]
        across = sum(lines[:, :, column] * weight for column, weight in zip(columns, column_weights, strict=True))
        total = total + ((down[:, None] * (across >> 4)) >> 16)
    return F.pad((total >> 2).float(), (0, size[1] - width, 0, size[0] - height))


def _taps(size: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two pixels that each cell reads along an axis of `size` pixels, and their weights: (2, cells) long and int32."""
    position = ((torch.arange(cells, dtype=torch.float64) + 0.5) * (size / cells) - 0.5).float()
    first = position.floor()
    fraction = position - first
    fraction = torch.where((first < 0) | (first >= size - 1), 0.0, fraction)
    first = first.long().clamp(0, size - 1)
    pixels = torch.stack([first, (first + 1).clamp(max=size - 1)])
    weights = torch.stack([2048 * (1 - fraction), 2048 * fraction]).round().to(torch.int32)
    return pixels.to(device), weights.to(device)
