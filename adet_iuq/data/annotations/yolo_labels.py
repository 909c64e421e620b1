"""Reads label files of YOLO segmentation: each line is an object, with its class number and the points of its outline.

Points are x and y in turn, as shares from 0 to 1 of the width and height of
the image as viewers show it (https://docs.ultralytics.com/datasets/segment). A
line with a class and four numbers is the box of an object without an outline.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from adet_iuq.data.annotations.report import Report

_FARTHEST = 2.0  # larger numbers cannot be shares
_BOX = 4  # number of values after the class


def read_objects(
    text: str, place: str, names: Mapping[int, str], report: Report
) -> Iterator[tuple[str, int, npt.NDArray[np.float64]]]:
    """Place (file and line), class number and outline, (P, 2) x, y as shares, of each object of a label file.

    Args:
        text: the content of the file.
        place: its path, for messages.
        names: the names of the classes, by number.
        report: gets a fatal finding for every line that is no object with an outline; these lines are left out.
    """
    for count, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            found = _read_line(line, f"{place} line {count}", names, report)
            if found is not None:
                yield f"{place} line {count}", *found


def _read_line(
    line: str, place: str, names: Mapping[int, str], report: Report
) -> tuple[int, npt.NDArray[np.float64]] | None:
    category, *values = _numbers(line)
    example = f"{place}: {line.strip()[:60]}"
    if not math.isfinite(category + sum(values)) or len(values) < _BOX or len(values) % 2:
        advice = "A line is a class number and at least three points: x and y in turn, with spaces between."
        report.add("line that is no object", example, advice, fatal=True)
    elif category not in names:
        report.add("unknown class", example, f"'names' has {_listed(names)}.", fatal=True)
    elif len(values) == _BOX:
        advice = (
            "These objects have a box (class, centre, width, height) and no outline, and masks cannot be learned from "
            "boxes. Export the labels as segmentation (polygons), or draw these outlines."
        )
        report.add("box without an outline", example, advice, fatal=True)
    else:
        points = np.array(values, dtype=np.float64).reshape(-1, 2)
        if np.abs(points).max() <= _FARTHEST:
            return int(category), points
        advice = (
            "Coordinates are shares of the image's width and height, from 0 to 1; pixels are to be divided by them."
        )
        report.add("coordinates that are no shares", example, advice, fatal=True)
    return None


def _numbers(line: str) -> list[float]:
    """The numbers of a line; a single not-a-number for anything else."""
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return [math.nan]


def to_annotation(points: npt.NDArray[np.float64], height: int, width: int) -> dict[str, Any]:
    """COCO's `segmentation`, `bbox`, `area` (of the mask) and `iscrowd` for an outline in an image of that size."""
    pixels = np.round(points * (width, height), 3)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    outline = [pixels.reshape(-1).tolist()]
    area = int(mask_util.area(mask_util.merge(mask_util.frPyObjects(outline, height, width))))
    return {"segmentation": outline, "bbox": [*low.tolist(), *(high - low).tolist()], "area": area, "iscrowd": 0}


def _listed(names: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in sorted(names.items())[:10]) + ", ..." * (len(names) > 10)
