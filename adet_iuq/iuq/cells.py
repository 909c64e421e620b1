"""Cells of a feature map and the input pixels that supervise them."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def valid_cells(size: int, cells: int, stride: int, offset: float) -> int:
    """How many of the `cells` cells of one axis have their supervised pixel, stride * i + offset, inside the image.

    Args:
        size: extent of the unpadded image on this axis, in input pixels.
        cells: extent of the padded map on this axis.
        stride: distance between neighbouring cells, in input pixels.
        offset: position of the input pixel that supervises cell 0.
    """
    return min(max(math.floor((size - 1 - offset) / stride) + 1, 0), cells)


def masks_at_cells(masks: Tensor, stride: int, offset: float, map_size: tuple[int, int]) -> Tensor:
    """Masks (K, H, W) bool read at the supervised pixels of a map of size (Hf, Wf): (K, Hf, Wf) bool.

    An offset that lies between two pixels (x.5) reads the later one. Cells beyond the masks are False.
    """
    first = math.floor(offset + 0.5)
    sampled = masks[:, first::stride, first::stride][:, : map_size[0], : map_size[1]]
    missing = (map_size[0] - sampled.shape[1], map_size[1] - sampled.shape[2])
    return F.pad(sampled, (0, missing[1], 0, missing[0]))
