"""Turns a user's images into pixels, and the words of a command line into files."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adet_iuq.data.images.opening import IMAGE_SUFFIXES
from adet_iuq.data.images.reading import read_image, read_picture
from adet_iuq.errors import UserError

Pixels = npt.NDArray[np.uint8]
Picture = str | os.PathLike[str] | Pixels | Image.Image

ORDERS = ("BGR", "RGB")


def pixels_of(picture: Picture, order: str = "BGR", deep_images: str = "dtype") -> Pixels:
    """The (H, W, 3) uint8 pixels in BGR, upright.

    Args:
        picture: a path, a picture of Pillow's, or an array: (H, W, 3) uint8, or grey (H, W) or (H, W, 1).
        order: the order of an array's channels, "BGR" (OpenCV's) or "RGB".
        deep_images: INPUT.DEEP_IMAGES, for paths and Pillow's pictures.

    Raises:
        UserError: the picture cannot be read, or is none of these.
    """
    if isinstance(picture, Image.Image):
        return read_picture(picture, deep_images=deep_images)
    if isinstance(picture, np.ndarray):
        return _array_pixels(picture, order)
    if isinstance(picture, (str, os.PathLike)):
        return read_image(picture, deep_images=deep_images)
    raise UserError(
        f"A {type(picture).__name__} is no image: give a path, an array (H, W, 3) or a picture of Pillow's."
    )


def _array_pixels(array: npt.NDArray[np.generic], order: str) -> Pixels:
    if order not in ORDERS:
        raise UserError(f"The order of channels {order!r} is not known; it can be {' or '.join(ORDERS)}.")
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise UserError(
            f"An array {array.shape} of {array.dtype} is no image: it must be (H, W, 3) or (H, W), uint8, with pixels. "
            "Scale its values to 0..255, or give the path: files are scaled by INPUT.DEEP_IMAGES."
        )
    pixels = array.view(np.uint8)
    if grey:
        return np.repeat(pixels.reshape(*array.shape[:2], 1), 3, axis=2)
    return pixels if order == "BGR" else pixels[:, :, ::-1]


def find_files(words: Iterable[str | os.PathLike[str]], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The files that words name, in order and each of them once: files, those in folders, and the matches of patterns.

    Args:
        words: paths of files and folders, and patterns.
        suffixes: the lower-case suffixes of the files that are taken from folders.

    Raises:
        UserError: a folder or a pattern holds nothing, or there is no word.
    """
    found: list[Path] = []
    empty = []
    for word in [os.fspath(one) for one in words]:
        path = Path(word).expanduser()
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        elif glob.has_magic(word) and not path.exists():
            files = [Path(match) for match in sorted(glob.glob(os.path.expanduser(word), recursive=True))]
        found += files
        empty += [] if files else [word]
    if empty or not found:
        raise UserError(f"No image in {', '.join(empty) or 'an empty list'}. Known suffixes: {', '.join(suffixes)}.")
    return list(dict.fromkeys(found))
