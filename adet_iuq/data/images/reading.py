"""Reading the image of a record."""

from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import detection_utils

from adet_iuq.errors import UserError


def read_image(record: dict[str, Any], image_format: str) -> npt.NDArray[np.uint8]:
    """The record's image, (H, W, C), upright as its EXIF entry says, transposed if its record has the sides swapped.

    Raises:
        UserError: the file is missing, damaged, or has another size than `height` and `width` of the record.
    """
    path = record["file_name"]
    try:
        image: npt.NDArray[np.uint8] = detection_utils.read_image(path, format=image_format)
    except FileNotFoundError as error:
        raise UserError(f"Image {path} does not exist. Run tools/check_dataset.py to list all missing ones.") from error
    except Exception as error:  # Pillow raises many types on damaged files, SyntaxError among them
        raise UserError(
            f"Image {path} cannot be read ({type(error).__name__}: {error}). Replace it, or let up to N be skipped with "
            "GUARD.SKIP_CORRUPT_IMAGES N."
        ) from error
    expected = (record["height"], record["width"])
    if image.shape[:2] == expected[::-1] != expected:
        image = np.ascontiguousarray(image.transpose(1, 0, 2))
    if image.shape[:2] != expected:
        raise UserError(
            f"Image {path} is {image.shape[1]} x {image.shape[0]} pixels (width x height), but its data set says "
            f"{expected[1]} x {expected[0]}. Correct the entry in the JSON file, or replace the image."
        )
    return image


def unreadable(record: dict[str, Any]) -> UserError | None:
    """Why the image of a record cannot be read; None if it can, or if the record names no image.

    It serves mappers that say it in words of their own.
    """
    if not record.keys() >= {"file_name", "height", "width"}:
        return None
    try:
        read_image(record, "BGR")
    except UserError as error:
        return error
    return None
