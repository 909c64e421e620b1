"""Measures many polygons at once, because a data set of COCO's size has a million of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from adet_iuq.data.annotations.polygons import clip_polygon

Array = npt.NDArray[np.float64]
Parts = list[list[float]]

_THIN = 1.5  # pixels of mean width; a strip as thin as this may miss the centre of every pixel
_SMALL = 16.0  # square pixels, the area of an outline four pixels wide
_FARTHEST = 1e12  # pixels; beyond it products of coordinates overflow


@dataclass
class Outlines:
    """The measures of N polygon segmentations, in pixels.

    Attributes:
        area: (N,) square pixels by the shoelace formula; the parts' areas are added without their signs.
        perimeter: (N,) the length of all parts together.
        bounds: (N, 4) x0, y0, x1, y1 around all points.
        doubtful: (N,) bool, whether a part is so small or thin that it may miss the centre of every pixel.
    """

    area: Array
    perimeter: Array
    bounds: Array
    doubtful: npt.NDArray[np.bool_]


def measure(segmentations: Sequence[Parts]) -> Outlines:
    """Measures polygon segmentations, N >= 1, of valid parts (at least one each)."""
    parts = list(chain.from_iterable(segmentations))
    lengths = np.fromiter(map(len, parts), np.int64, len(parts)) // 2
    flat = np.fromiter(chain.from_iterable(parts), np.float64, 2 * int(lengths.sum()))
    points = np.clip(flat, -_FARTHEST, _FARTHEST).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    after = np.arange(1, len(points) + 1)
    after[starts + lengths - 1] = starts
    x, y = (points - np.repeat(points[starts], lengths, axis=0)).T  # from each part's first point: less error
    cross = x * y[after] - x[after] * y
    edges = np.hypot(x[after] - x, y[after] - y)
    first = np.concatenate([[0], np.cumsum([len(parts) for parts in segmentations])[:-1]])
    areas, lengths = np.abs(np.add.reduceat(cross, starts)) / 2, np.add.reduceat(edges, starts)
    doubtful = np.logical_or.reduceat((areas < _SMALL) | (2 * areas < _THIN * lengths), first)
    low, high = (extreme.reduceat(points, starts[first]) for extreme in (np.minimum, np.maximum))
    bounds = np.concatenate([low, high], axis=1)
    return Outlines(np.add.reduceat(areas, first), np.add.reduceat(lengths, first), bounds, doubtful)


def cut(parts: Parts, height: int, width: int, margin: float) -> Parts:
    """The parts inside a window that reaches `margin` pixels beyond the image on all sides; there may be none.

    pycocotools allocates memory for the length of an outline: a coordinate that lost its decimal point takes gigabytes.
    """
    result = []
    for part in parts:
        points = np.clip(np.array(part, dtype=np.float64), -_FARTHEST, _FARTHEST).reshape(-1, 2) + margin
        inside = clip_polygon(points, width + 2 * margin, height + 2 * margin)
        if len(inside) > 2:
            result.append((inside - margin).reshape(-1).tolist())
    return result


def drawn(parts: Parts, height: int, width: int) -> tuple[int, list[float]]:
    """The number of pixels that the parts cover together, as pycocotools draws them, and x0, y0, x1, y1 around them."""
    mask = mask_util.merge(mask_util.frPyObjects(parts, height, width))
    left, top, wide, high = mask_util.toBbox(mask).tolist()
    return int(mask_util.area(mask)), [left, top, left + wide, top + high]
