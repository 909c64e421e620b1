"""CropFlip is one sampled g of the set G (crop, then horizontal flip, no resizing), for all that it acts on (Eq. 6).

There are two kinds of horizontal coordinate. A pixel index p (masks, supervised cells, points) is mirrored within a
width w to w - 1 - p; an edge coordinate x (boxes, whose right edge lies behind the last pixel) is mirrored to w - x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cells import valid_cells


@dataclass(frozen=True)
class CropFlip:
    """Cuts the window (x0, y0, w, h), in input pixels, out of an image, and mirrors it left to right if `flip` is set."""

    x0: int
    y0: int
    w: int
    h: int
    flip: bool = False

    @staticmethod
    def identity(image_size: tuple[int, int]) -> CropFlip:
        """The g that changes nothing in an image of size (H, W)."""
        return CropFlip(0, 0, image_size[1], image_size[0])

    @staticmethod
    def sample(
        generator: torch.Generator | None,
        image_size: tuple[int, int],
        *,
        stride: int,
        offset: float,
        flip_prob: float = 0.5,
        crop_range: tuple[float, float] = (0.6, 1.0),
    ) -> CropFlip:
        """Draws g for an unpadded image of size (H, W), whose sides have at least 1 pixel.

        Width and height are drawn independently, uniformly over `crop_range` times the image's. The corner is uniform
        over the multiples of `stride`, so that the cells of the two maps meet. If the crop is flipped, the width is
        changed to the nearest one in range with which the cells meet after the mirroring too, if there is one.

        Args:
            generator: a generator on the CPU; None draws from torch's global one.
            image_size: (H, W) in pixels.
            stride: stride of the feature map, in pixels.
            offset: `Scene.offset`, the position of the pixel that supervises cell 0.
            flip_prob: probability of the flip.
            crop_range: smallest and largest crop, as a share of the side.
        """
        height, width = image_size
        flip_draw, w_draw, h_draw, x_draw, y_draw = torch.rand(5, generator=generator).tolist()
        flip = flip_draw < flip_prob
        widths, heights = _side_range(width, crop_range), _side_range(height, crop_range)
        w, h = _pick(widths, w_draw), _pick(heights, h_draw)
        if flip:
            w = _whole_cell_width(w, widths, stride, offset)
        x0 = stride * _pick((0, (width - w) // stride), x_draw)
        y0 = stride * _pick((0, (height - h) // stride), y_draw)
        return CropFlip(x0, y0, w, h, flip)

    def image(self, image: Tensor) -> Tensor:
        """Applies g to an image (3, H, W), or to anything else with one value per pixel: (..., H, W) to (..., h, w)."""
        cut = image[..., self.y0 : self.y0 + self.h, self.x0 : self.x0 + self.w]
        return cut.flip(-1) if self.flip else cut

    def masks(self, masks: Tensor) -> Tensor:
        """Applies g to masks: (K, H, W) to (K, h, w). The masks of instances that were cut away are empty."""
        return self.image(masks)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Applies g to boxes (K, 4) x0, y0, x1, y1 in edge coordinates. They are cut to the window; outside a side is 0.

        The box of a cut mask can be smaller, so boxes (and centroids) are better recomputed from the masks if there are any.
        """
        left, top, right, bottom = boxes.unbind(dim=1)
        left, right = ((x - self.x0).clamp(0, self.w) for x in (left, right))
        top, bottom = ((y - self.y0).clamp(0, self.h) for y in (top, bottom))
        if self.flip:
            left, right = self.w - right, self.w - left
        return torch.stack([left, top, right, bottom], dim=1)

    def points(self, points: Tensor) -> Tensor:
        """Applies g to points (..., 2) x, y as pixel indices (pixel p sits at p). They may fall outside of g(I)."""
        x, y = points[..., 0] - self.x0, points[..., 1] - self.y0
        return torch.stack([self.w - 1 - x if self.flip else x, y], dim=-1)

    def features(
        self,
        features: Tensor,
        image_size: tuple[int, int],
        *,
        stride: int,
        offset: float,
        map_size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Applies g to a dense map: (D, Hf, Wf) to (D, Hf', Wf'), and says which cells are valid, (Hf', Wf') bool.

        Cell j' of the result reads the map at u = j' + x0 / stride or, when flipped, (x0 + w - 1 - 2 * offset) / stride
        - j', linearly between cells. So the same content supervises it. A cell is invalid if its supervised pixel lies
        outside g(I), or if it reads a cell whose supervised pixel lies outside I.

        Args:
            features: map of the padded image I; differentiable. The results are float32 or float64.
            image_size: (h, w) of I before padding.
            stride: distance between neighbouring cells, in input pixels.
            offset: position of the input pixel that supervises cell 0.
            map_size: (Hf', Wf') of the padded g(I); None: the size of `features`.
        """
        rows, columns = map_size or (features.shape[1], features.shape[2])
        readable_y = valid_cells(image_size[0], features.shape[1], stride, offset)
        readable_x = valid_cells(image_size[1], features.shape[2], stride, offset)
        x_start = (self.x0 + self.w - 1 - 2 * offset) / stride if self.flip else self.x0 / stride
        x_step = -1 if self.flip else 1
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        features, valid_y = _resample(features, 1, self.y0 / stride, 1, readable_y, rows)
        features, valid_x = _resample(features, 2, x_start, x_step, readable_x, columns)
        valid_y[valid_cells(self.h, rows, stride, offset) :] = False
        valid_x[valid_cells(self.w, columns, stride, offset) :] = False
        return features, valid_y[:, None] & valid_x[None]


def warp_features(
    features: Tensor,
    transforms: Sequence[CropFlip],
    image_sizes: Sequence[tuple[int, int]],
    *,
    stride: int,
    offset: float,
    map_size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Applies `CropFlip.features` to a batch: (B, D, Hf, Wf) to (B, D, Hf', Wf') and (B, Hf', Wf') bool; B at least 1."""
    warped = [
        g.features(image, size, stride=stride, offset=offset, map_size=map_size)
        for g, image, size in zip(transforms, features, image_sizes, strict=True)
    ]
    return torch.stack([image for image, _ in warped]), torch.stack([valid for _, valid in warped])


def _side_range(side: int, crop_range: tuple[float, float]) -> tuple[int, int]:
    """Shortest and longest crop of a side, in pixels."""
    longest = min(max(math.floor(side * crop_range[1]), 1), side)
    return min(max(math.ceil(side * crop_range[0]), 1), longest), longest


def _pick(bounds: tuple[int, int], draw: float) -> int:
    """An integer between the bounds, both included, from a uniform draw in [0, 1)."""
    return bounds[0] + min(int(draw * (bounds[1] - bounds[0] + 1)), bounds[1] - bounds[0])


def _whole_cell_width(width: int, bounds: tuple[int, int], stride: int, offset: float) -> int:
    """The width nearest to `width` within the bounds for which (w - 1 - 2 * offset) divides by the stride, if any."""
    fitting = [w for w in range(bounds[0], bounds[1] + 1) if (w - 1 - 2 * offset) % stride == 0]
    return min(fitting, key=lambda w: abs(w - width), default=width)


def _resample(features: Tensor, dim: int, start: float, step: int, readable: int, cells: int) -> tuple[Tensor, Tensor]:
    """Reads one axis linearly at u = start + step * i' for all i' < cells.

    Returns the result, and (cells,) bool: whether u lies within the cells that may be read, 0 to readable - 1.
    """
    first = math.floor(start)
    fraction = start - first
    lower = first + step * torch.arange(cells, device=features.device)
    upper = lower + (fraction > 0)
    valid = (lower >= 0) & (upper < readable)
    last = features.shape[dim] - 1
    read = features.index_select(dim, lower.clamp(0, last))
    if fraction > 0:
        read = read.lerp(features.index_select(dim, upper.clamp(0, last)), fraction)
    return read, valid
