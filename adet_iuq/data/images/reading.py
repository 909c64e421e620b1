"""Reads images for training, evaluation, predictions and pictures, so that all of them get the same pixels of a file."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import detection_utils
from PIL import Image, ImageFile

from adet_iuq.data.images.deep import eight_bits
from adet_iuq.data.images.facts import ImageFacts, Size, facts_of, orientation_of
from adet_iuq.data.images.opening import explained, open_image
from adet_iuq.data.images.orientation import STORED, UPRIGHT, frame_of, size_problem, tell, turned
from adet_iuq.errors import UserError

Pixels = npt.NDArray[np.uint8]


def read_image(
    path: str | os.PathLike[str],
    image_format: str = "BGR",
    *,
    claimed_size: Size | None = None,
    annotations: Iterable[Mapping[str, Any]] = (),
    deep_images: str = "dtype",
    kind: str = "Image",
) -> Pixels:
    """The (H, W, C) pixels of a file.

    Args:
        path: the path of the file.
        image_format: "BGR", or one of Pillow's modes, such as "RGB".
        claimed_size: (height, width) in its data set, which decides whether it is read as stored or upright
            (data/images/orientation.py); None: upright.
        annotations: the annotations of the image in COCO's format, which are needed if width and height are swapped.
        deep_images: INPUT.DEEP_IMAGES.
        kind: the word for the image in messages.

    Raises:
        UserError: the file is missing, damaged or too large, does not have the claimed size, or is deep and refused.
    """
    with open_image(path, kind) as image:
        facts = facts_of(image, os.fspath(path))
        frame = UPRIGHT if claimed_size is None else frame_of(facts, claimed_size, annotations)
        if frame is None:
            assert claimed_size is not None
            raise UserError(size_problem(facts, claimed_size))
        tell(frame, facts)
        pixels, still_to_turn = _decoded(image, facts, image_format, deep_images)
    if frame != STORED:
        return turned(pixels, still_to_turn)
    return pixels if still_to_turn == facts.orientation else turned(pixels, facts.orientation, back=True)


def read_picture(image: Image.Image, image_format: str = "BGR", deep_images: str = "dtype") -> Pixels:
    """The upright (H, W, C) pixels of a picture that was opened or made with Pillow.

    Raises:
        UserError: the picture is damaged, or deep and refused.
    """
    name = str(image.filename) if isinstance(image, ImageFile.ImageFile) and image.filename else "of Pillow"
    with explained(name):
        pixels, still_to_turn = _decoded(image, facts_of(image, name), image_format, deep_images)
    return turned(pixels, still_to_turn)


def _decoded(image: Image.Image, facts: ImageFacts, image_format: str, deep_images: str) -> tuple[Pixels, int]:
    """The pixels as Pillow decodes them, and the EXIF orientation that they still have."""
    image.load()
    still_to_turn = orientation_of(image)
    plain = image if facts.depth is None else eight_bits(image, facts.depth, deep_images, facts.path)
    return _array(plain, image_format), still_to_turn


def _array(image: Image.Image, image_format: str) -> Pixels:
    """The (H, W, C) pixels as detectron2 converts them, without its second copy if nothing is converted."""
    if image.mode == "RGB" and image_format in ("RGB", "BGR"):
        colours: Pixels = np.asarray(image)
        return colours if image_format == "RGB" else colours[:, :, ::-1]
    pixels: Pixels = detection_utils.convert_PIL_to_numpy(image, image_format)
    return pixels


def read_record(record: dict[str, Any], image_format: str, deep_images: str = "dtype") -> tuple[Pixels, dict[str, Any]]:
    """The image of a data set's record, and the record with the image's `height` and `width`.

    The size differs from the record's own if the record swaps the sides or has none.

    Args:
        record: a record in detectron2's format.
        image_format: the format of the pixels, as for `read_image`.
        deep_images: INPUT.DEEP_IMAGES.

    Raises:
        UserError: `read_image` refuses the image.
    """
    claimed = (record["height"], record["width"]) if record.keys() >= {"height", "width"} else None
    pixels = read_image(
        record["file_name"],
        image_format,
        claimed_size=claimed,
        annotations=record.get("annotations", ()),
        deep_images=deep_images,
    )
    return pixels, {**record, "height": pixels.shape[0], "width": pixels.shape[1]}


def unreadable(record: dict[str, Any]) -> UserError | None:
    """Why the image of a record cannot be read; None if it can, or if the record names no image.

    Mappers use it that report such an image in words of their own.
    """
    if "file_name" not in record:
        return None
    try:
        read_record(record, "BGR")
    except UserError as error:
        return error
    return None
