"""Decides from its annotations whether an image is read as it is stored, or upright as its EXIF entry says.

A JSON file gives an image's size. If that is the size of the stored pixels, the annotations were drawn on those. If it is
the upright size, they were drawn on what viewers show. If both sizes are the same (a square image, or one that is only
mirrored or turned by 180 degrees), nothing decides, and the image is read upright. If width and height are merely swapped,
the image is read as it is if every annotation fits into it. Any other size is an error, with the same words everywhere.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.utils.logger import log_first_n

from adet_iuq.data.annotations.segmentation import OUTSIDE, valid_parts
from adet_iuq.data.images.facts import ImageFacts, Size

Pixels = npt.NDArray[np.uint8]

STORED, UPRIGHT, UNCLEAR, SWAPPED = "stored", "upright", "unclear", "swapped"

# Functions from the stored to the upright pixels, by EXIF orientation.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
_INVERSE = {6: 8, 8: 6}  # all other turns are their own inverse


def frame_of(facts: ImageFacts, claimed: Size, annotations: Iterable[Mapping[str, Any]]) -> str | None:
    """Decides how an image is read if its data set gives it the size `claimed` (height, width).

    Args:
        facts: the facts of the image's file.
        claimed: the size in its entry in the JSON file.
        annotations: the annotations of the image in COCO's format, of which `segmentation` is used.

    Returns:
        STORED: it is read as it is stored. UPRIGHT: it is read upright. UNCLEAR: it is read upright because nothing decides.
        SWAPPED: its entry swaps width and height, and it is read as it is. None: the entry does not belong to this image.
    """
    stored, upright = facts.stored_size, facts.upright_size
    if claimed == upright:
        return UNCLEAR if upright == stored and facts.orientation != 1 else UPRIGHT
    if claimed == stored:
        return STORED
    if claimed == upright[::-1] and all(_fits(one.get("segmentation"), upright) for one in annotations):
        return SWAPPED
    return None


def size_problem(facts: ImageFacts, claimed: Size) -> str:
    """The message about an image whose entry does not belong to it (`frame_of` is None)."""
    (height, width), (upright_height, upright_width) = facts.stored_size, facts.upright_size
    sides = f"{width} x {height} pixels"
    if facts.orientation != 1:
        sides += f" as stored, {upright_width} x {upright_height} upright"
    swapped = ", and its annotations do not fit into it" if claimed == facts.upright_size[::-1] else ""
    return (
        f"Image {facts.path} is {sides} (width x height), but its data set says {claimed[1]} x {claimed[0]}{swapped}. "
        "Correct the entry in the JSON file, or replace the image."
    )


def _fits(segmentation: Any, size: Size) -> bool:
    """Whether a segmentation lies inside an image of this size; True for one that is unusable."""
    height, width = size
    if isinstance(segmentation, Mapping):
        return list(segmentation.get("size", ())) == [height, width]
    return all(
        max(part[0::2]) <= width + OUTSIDE and max(part[1::2]) <= height + OUTSIDE for part in valid_parts(segmentation)
    )


def tell(frame: str, facts: ImageFacts) -> None:
    """Logs, once per process and kind, that images are read in a way that a user may not expect."""
    if frame == UNCLEAR:
        log_first_n(
            logging.WARNING,
            f"Image {facts.path} must be turned for viewing (EXIF orientation {facts.orientation}), and its size does not "
            "tell whether its annotations were drawn before or after that: it is read upright (said once).",
        )
    if frame == SWAPPED:
        log_first_n(
            logging.WARNING,
            f"Image {facts.path}: its data set swaps width and height; the image is read as it is (said once).",
        )


def turned(pixels: Pixels, orientation: int, *, back: bool = False) -> Pixels:
    """The (H, W, C) pixels turned from stored to upright, or back."""
    if orientation == 1:
        return pixels
    orientation = _INVERSE.get(orientation, orientation) if back else orientation
    return np.ascontiguousarray(_TURNS[orientation](pixels))
