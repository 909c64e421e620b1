"""What makes a segmentation or a box of a COCO-format file usable."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

_LEAST_AREA = 1e-6  # square pixels; collinear points have less, by rounding


def valid_parts(segmentation: Any) -> list[list[float]]:
    """The parts of a polygon segmentation that describe an area: at least three points, an even count, all finite."""
    if not isinstance(segmentation, list):
        return []
    return [part for part in segmentation if _is_valid_part(part)]


def to_rle(segmentation: Any, height: int, width: int) -> Any:
    """A valid segmentation, polygons or run lengths, as one compressed RLE of an image of that size in pixels."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def _is_valid_part(part: Any) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    try:
        return math.isfinite(sum(part))  # one pass in C: a sum is finite only if all terms are
    except TypeError:
        return False


def rle_problem(segmentation: dict[str, Any], height: int, width: int) -> str | None:
    """Why a run-length encoded mask cannot serve in an image of this size (pixels); None if it can.

    pycocotools does not look: it overruns its buffers on runs that do not fill the mask exactly, so ask here first.
    """
    size = segmentation.get("size")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f"RLE of size {size} in an image of height {height} and width {width}"
    runs = _run_lengths(segmentation.get("counts"))
    if runs is None or (runs < 0).any() or int(runs.sum()) != height * width:
        return f"RLE counts do not describe a mask of {height} x {width}"
    return None


def _run_lengths(counts: Any) -> npt.NDArray[np.int64] | None:
    """Run lengths, background first, of a list or a compressed string; None if it is neither."""
    if not isinstance(counts, list):
        return _decoded_runs(counts)
    whole = all(isinstance(run, int) for run in counts)
    return np.array(counts, dtype=np.int64) if whole else None


def _decoded_runs(counts: Any) -> npt.NDArray[np.int64] | None:
    """Run lengths of the COCO API's compressed string; None if it is not one.

    Each number is written in groups of five bits, low ones first, as characters from "0" on; bit 0x20 says that more
    groups follow, bit 0x10 of the last group is the sign. From the fourth number on, it is the difference to the number
    before last.
    """
    try:
        text = counts if isinstance(counts, bytes) else counts.encode("ascii")
    except (AttributeError, UnicodeEncodeError):
        return None
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 0x20:
        return None
    last = (groups & 0x20) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(groups)))
    if lengths.max() > 7:  # more bits than any image has pixels
        return None
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    numbers -= np.where(groups[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def has_area(segmentation: Any, height: int | None, width: int | None) -> bool:
    """Whether a valid segmentation (valid polygon parts, or an RLE without a problem) covers anything of its image.

    Polygons are not rasterised: it is enough that a part has an area and that its box meets the image (height and width
    in pixels; None: unknown).
    """
    if isinstance(segmentation, dict):
        runs = _run_lengths(segmentation["counts"])
        return runs is not None and bool(runs[1::2].any())
    return any(_part_has_area(part, height, width) for part in segmentation)


def _part_has_area(part: list[float], height: int | None, width: int | None) -> bool:
    for values, limit in ((part[::2], width), (part[1::2], height)):
        if max(values) <= 0 or (limit is not None and min(values) >= limit):
            return False
    # Triangles from the first point, each taken positive: a figure of eight has an area too. The first one mostly decides.
    x, y = part[0], part[1]
    area = 0.0
    for i in range(2, len(part) - 2, 2):
        area += abs((part[i] - x) * (part[i + 3] - y) - (part[i + 2] - x) * (part[i + 1] - y)) / 2
        if area > _LEAST_AREA:
            return True
    return False


def is_valid_box(box: Any) -> bool:
    """Whether an XYWH box has four finite numbers and an area."""
    try:
        return len(box) == 4 and all(math.isfinite(value) for value in box) and box[2] > 0 and box[3] > 0
    except TypeError:
        return False


def is_usable_box(box: Any, height: int | None, width: int | None) -> bool:
    """Whether an XYWH box is valid and meets its image (height and width in pixels; None: unknown)."""
    if not is_valid_box(box) or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        return False
    return (width is None or box[0] < width) and (height is None or box[1] < height)


def segmentation_box(segmentation: Any) -> list[float]:
    """The XYWH box, in pixels, around valid polygon parts or around a valid compressed RLE."""
    if isinstance(segmentation, list):
        points = np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation])
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    return [float(value) for value in mask_util.toBbox(segmentation)]
