"""Linear resizing of masks, computed only where it is needed: in the window around what is above a threshold.

A mask fills a tenth of its image or less. Between cells that are all below a threshold, a linear map is below it too, so
only the surroundings of the others have to be enlarged, resized and compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adet_iuq.modeling.layers.chunks import items_at_once
from adet_iuq.modeling.layers.mask_sets import MaskWindow

Size = tuple[int, int]

# Cells around those above the threshold. Pixels that are above it read the next cell; their neighbours, from which the
# second step may compute a pixel above it, read one more.
_MARGIN = 2
# Bytes of maps of the output's size that are computed at one time. A device is kept busy by many masks, which then share a
# window; a CPU is faster with one mask after the other, each in its own.
_CHUNK_BYTES = {"cpu": 0}


@dataclass(frozen=True)
class Axis:
    """Resizing along one axis: output i is (1 - weights[i]) * input[low[i]] + weights[i] * input[high[i]]."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.low)

    def cut(self, length: int) -> "Axis":
        """The first outputs only."""
        return Axis(self.low[:length], self.high[:length], self.weights[:length])

    def apply(self, maps: Tensor, dim: int, start: int) -> tuple[Tensor, int]:
        """The outputs that a part of the input decides.

        Args:
            maps: (n, h, w) float, the part.
            dim: the dimension of this axis.
            start: the number of the part's first input.

        Returns:
            The outputs in place of the part's inputs, and the number of the first one.
        """
        first = int(np.searchsorted(self.low, start))
        last = max(first, int(np.searchsorted(self.high, start + maps.shape[dim])))
        low, high = (torch.from_numpy(one[first:last] - start).to(maps.device) for one in (self.low, self.high))
        weights = torch.from_numpy(self.weights[first:last]).to(maps).view(-1, *[1] * (2 - dim))
        return (maps.index_select(dim, low) * (1 - weights)).addcmul_(maps.index_select(dim, high), weights), first


def resized_axis(size: int, output: int) -> Axis:
    """`F.interpolate` with mode "bilinear" and align_corners False, from `size` to `output`."""
    scale = np.float32(size / output)
    return _axis((np.arange(output, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), size)


def aligned_axis(size: int, factor: int) -> Axis:
    """`aligned_bilinear`: output k reads at (k - factor // 2) / factor."""
    return _axis((np.arange(size * factor, dtype=np.float32) - factor // 2) / np.float32(factor), size)


def _axis(positions: npt.NDArray[np.float32], size: int) -> Axis:
    positions = positions.clip(0, size - 1)
    low = positions.astype(np.int64)
    return Axis(low, np.minimum(low + 1, size - 1), positions - low.astype(np.float32))


class Resampling:
    """The way from a map's cells to the pixels of the output: enlarged to the padded input, cut, resized.

    Args:
        enlarged: rows and columns from the cells to the padded input.
        input_size: (H, W) of the input before padding.
        output_size: (height, width) of the output.
    """

    def __init__(self, enlarged: tuple[Axis, Axis], input_size: Size, output_size: Size) -> None:
        self.output_size = output_size
        self._rows, self._columns = (_steps(*sizes) for sizes in zip(enlarged, input_size, output_size, strict=True))

    def windows(self, maps: Tensor, threshold: float) -> Iterator[tuple[Tensor, int, int]]:
        """The resized maps where they may be above the threshold, a few at a time and in their order.

        Each item is values (n, y, x) of n maps in a window of the output, and the window's top row and left column. Values
        above the threshold are right; others need not be, but are not above it.

        Args:
            maps: (N, h, w) float.
            threshold: the threshold.
        """
        found = _cell_windows(maps, threshold)
        pixels = max(maps[0].numel() if len(maps) else 1, self.output_size[0] * self.output_size[1])
        step = items_at_once(_CHUNK_BYTES, maps.device, 4 * pixels)
        for start in range(0, len(maps), step):
            yield self._window(maps[start : start + step], _union(found[start : start + step]))

    def masks(self, maps: Tensor, threshold: float) -> Iterator[MaskWindow]:
        """The same, as masks of what is above the threshold."""
        for values, top, left in self.windows(maps, threshold):
            yield MaskWindow(values > threshold, top, left)

    def _window(self, maps: Tensor, cells: Sequence[int]) -> tuple[Tensor, int, int]:
        top, bottom, left, right = cells
        maps = maps[:, top:bottom, left:right]
        for axis in self._columns:  # first, while there are few rows
            maps, left = axis.apply(maps, 2, left)
        for axis in self._rows:
            maps, top = axis.apply(maps, 1, top)
        return maps, top, left


def _steps(enlarged: Axis, cut: int, output: int) -> list[Axis]:
    size = min(cut, len(enlarged))
    return [enlarged.cut(size)] if size == output else [enlarged, resized_axis(size, output)]


def _cell_windows(maps: Tensor, threshold: float) -> list[list[int]]:
    """For each map (h, w) the top, bottom, left and right end of what is above the threshold, widened; [] if nothing is."""
    inside = maps > threshold
    bounds = []
    for line in (inside.any(2), inside.any(1)):
        size = line.shape[1]
        numbers = torch.arange(size, device=maps.device)
        bounds += [torch.where(line, numbers, size).amin(1), torch.where(line, numbers + 1, 0).amax(1)]
    height, width = maps.shape[1:]
    return [
        [max(top - _MARGIN, 0), min(bottom + _MARGIN, height), max(left - _MARGIN, 0), min(right + _MARGIN, width)]
        if bottom
        else []
        for top, bottom, left, right in torch.stack(bounds, dim=1).tolist()
    ]


def _union(windows: Sequence[Sequence[int]]) -> Sequence[int]:
    """The smallest window that holds all of them."""
    tops, bottoms, lefts, rights = zip(*[one for one in windows if one] or [(0, 0, 0, 0)], strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)
