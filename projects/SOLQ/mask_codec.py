"""Masks as vectors: the lowest frequencies of the mask in its box (docs/parity/solq.md, "The mask codec").

Shapes: K masks, a patch of m x m cells, n coefficients that are kept, of the first R rows and C columns of frequencies.
"""

import math

import torch
from detectron2.structures import BitMasks
from torch import Tensor, nn


class MaskCodec(nn.Module):
    """Converts patches to vectors and back, all masks at once. It has no parameters, and nothing in a checkpoint."""

    row: Tensor  # (n,) long, frequency of each coefficient along the rows' axis
    column: Tensor  # (n,) long
    row_waves: Tensor  # (R, m) float64
    column_waves: Tensor  # (C, m) float64

    def __init__(self, side: int, kept: int) -> None:
        """
        Args:
            side: m, the cells along a side of a patch.
            kept: n, the number of coefficients.
        """
        super().__init__()
        self.side = side
        places = torch.tensor(zigzag(side)[:kept])
        row, column = places.unbind(1)
        waves = cosines(side)
        constants = {"row": row, "column": column}
        constants |= {"row_waves": waves[: row.max() + 1], "column_waves": waves[: column.max() + 1]}
        for name, tensor in constants.items():
            self.register_buffer(name, tensor.clone(), persistent=False)

    def crop(self, masks: Tensor, boxes: Tensor) -> Tensor:
        """(K, m, m) bool patches: each mask in its box, where a cell is set if the mean of its samples is at least a half.

        Args:
            masks: (K, H, W) bool.
            boxes: (K, 4) XYXY in pixels.
        """
        patches: Tensor = BitMasks(masks).crop_and_resize(boxes, self.side)
        return patches

    def encode(self, patches: Tensor) -> Tensor:
        """(K, n) float32 coefficients of patches (K, m, m)."""
        spectrum = self.row_waves @ patches.double() @ self.column_waves.T
        return spectrum[:, self.row, self.column].float()

    def decode(self, vectors: Tensor) -> Tensor:
        """(K, m, m) bool patches of coefficients (K, n): the cells above the middle of a patch's own range."""
        spectrum = vectors.new_zeros(len(vectors), len(self.row_waves), len(self.column_waves), dtype=torch.float64)
        spectrum[:, self.row, self.column] = vectors.double()
        patches = self.row_waves.T @ spectrum @ self.column_waves
        middle = (patches.amax((1, 2), keepdim=True) + patches.amin((1, 2), keepdim=True)) / 2
        return patches > middle


def cosines(side: int) -> Tensor:
    """(m, m) float64, the orthonormal cosine transform of type II: row k is the wave of frequency k."""
    frequency, cell = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)
    waves = math.sqrt(2 / side) * torch.cos(math.pi / (2 * side) * frequency * (2 * cell + 1))
    waves[0] /= math.sqrt(2)
    return waves


def zigzag(side: int) -> list[tuple[int, int]]:
    """All places (row, column) of a square, diagonal by diagonal: odd ones downwards, even ones upwards."""
    places = [(row, column) for row in range(side) for column in range(side)]
    return sorted(places, key=lambda p: (sum(p), p[0] if sum(p) % 2 else -p[0]))
