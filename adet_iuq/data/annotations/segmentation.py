"""Decides whether a segmentation or a box of a COCO-format file is usable."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from adet_iuq.data.annotations.numbers import number

_MOST_PIXELS = 1 << 50
_DEEPEST = 16  # depth of nested brackets; a polygon needs three
OUTSIDE = 1.0  # pixels by which a point or a box may leave its image; COCO's own do so by rounding


def valid_parts(segmentation: Any) -> list[list[float]]:
    """The parts of a polygon segmentation that describe an area: at least three points, an even count, all finite."""
    if not isinstance(segmentation, list):
        return []
    return [part for part in segmentation if is_valid_part(part)]


def to_rle(segmentation: Any, height: int, width: int) -> Any:
    """Converts a valid segmentation, polygons or run lengths, to one compressed RLE of an image of that size in pixels."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def is_valid_part(part: Any) -> bool:
    """Whether a part is a list of an even count of finite numbers, at least six."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    try:
        return math.isfinite(sum(part))  # a single pass in C: a sum is finite only if all terms are
    except (TypeError, OverflowError):
        return False


def read_parts(segmentation: Any, deepest: int = _DEEPEST) -> tuple[list[list[float]], int]:
    """The valid parts of a polygon segmentation in any form that has only one meaning, and the number of broken parts.

    These forms are read: COCO's [[x1, y1, x2, ...], ...]; one part without the outer list, [x1, y1, x2, ...]; one part
    as points, [[x1, y1], [x2, y2], ...], and lists of such parts; any of them in more brackets than necessary, up to
    `deepest`; and numbers that are written as words.
    """
    if not deepest:
        return [], 1
    if not isinstance(segmentation, list) or not segmentation:
        return [], 0
    if not any(isinstance(item, list) for item in segmentation):
        part = [number(item) for item in segmentation]
        return ([part], 0) if is_valid_part(part) else ([], 1)  # type: ignore[list-item]
    if len(segmentation) > 2 and all(_is_point(item) for item in segmentation):
        return read_parts([value for point in segmentation for value in point])
    found = [read_parts(item, deepest - 1) if isinstance(item, list) else ([], 1) for item in segmentation]
    return [part for parts, _ in found for part in parts], sum(broken for _, broken in found)


def _is_point(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and not any(isinstance(value, list) for value in item)


def rle_problem(segmentation: dict[str, Any], height: int, width: int) -> str | None:
    """Why a run-length encoded mask cannot be used in an image of this size (pixels); None if it can.

    pycocotools does not check it and overruns its buffers if the runs do not fill the mask exactly. So ask here first.
    """
    size = segmentation.get("size")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:  # lists of other things differ as well
        return f"RLE of size {size} in an image of height {height} and width {width}"
    runs = _run_lengths(segmentation.get("counts"))
    if runs is None or (runs < 0).any() or int(runs.sum()) != height * width:
        return f"RLE counts do not describe a mask of {height} x {width}"
    return None


def _run_lengths(counts: Any) -> npt.NDArray[np.int64] | None:
    """The run lengths, background first, of a list or a compressed string; None if it is neither."""
    if not isinstance(counts, list):
        return _decoded_runs(counts)
    whole = all(isinstance(run, int) or (isinstance(run, float) and run.is_integer()) for run in counts)
    # Runs longer than any image are wrong at any length, and may not fit into 64 bits.
    return np.array([min(max(run, -1), _MOST_PIXELS) for run in counts], dtype=np.int64) if whole else None


def mask_area(segmentation: dict[str, Any]) -> int:
    """The number of pixels of an RLE without a problem."""
    runs = _run_lengths(segmentation["counts"])
    return 0 if runs is None else int(runs[1::2].sum())


def compressed(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """An RLE without a problem in compressed form, with whole numbers for its size; itself if it has this form."""
    if isinstance(segmentation["counts"], list):
        runs = {"size": [height, width], "counts": [int(run) for run in segmentation["counts"]]}
        result: dict[str, Any] = mask_util.frPyObjects(runs, height, width)
        return result
    plain = all(type(side) is int for side in segmentation["size"])
    return segmentation if plain else {**segmentation, "size": [height, width]}


def _decoded_runs(counts: Any) -> npt.NDArray[np.int64] | None:
    """The run lengths of the COCO API's compressed string; None if it is not one.

    Each number is written in groups of five bits, low bits first, as characters from "0" on. Bit 0x20 says that more
    groups follow; bit 0x10 of the last group is the sign. From the fourth number on, the difference to the number
    before the last one is written.
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
    if lengths.max() > 7:  # more bits than the pixels of any image need
        return None
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    numbers -= np.where(groups[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def is_valid_box(box: Any) -> bool:
    """Whether an XYWH box has four finite numbers and an area."""
    try:
        return len(box) == 4 and math.isfinite(sum(box)) and box[2] > 0 and box[3] > 0
    except (TypeError, KeyError, OverflowError):
        return False
