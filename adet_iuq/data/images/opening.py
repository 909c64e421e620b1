"""Opens image files, with errors for people. All image files are opened here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils.file_io import PathManager
from PIL import Image

from adet_iuq.errors import UserError

# Pillow refuses larger pictures, as small files can be made to fill the memory. The variable raises the limit.
LIMIT_VARIABLE = "ADET_IUQ_MAX_PIXELS"

# The lower-case suffixes of the files that count as images when a folder is searched.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class ImageTooLargeError(UserError):
    """A picture has more pixels than allowed."""


@contextmanager
def open_image(path: str | os.PathLike[str], kind: str = "Image") -> Iterator[Image.Image]:
    """Opens a picture and reads its header, but not its pixels. It is closed at the end of the block.

    Errors of the picture inside the block, for example from decoding, are reported like errors of opening it.

    Args:
        path: a file, or anything else that detectron2's PathManager reads.
        kind: the word for the picture in messages.

    Raises:
        ImageTooLargeError: the picture has more pixels than allowed.
        UserError: the file is missing or damaged.
    """
    path = os.fspath(path)
    _raise_limit()
    with explained(path, kind), PathManager.open(path, "rb") as file, Image.open(file) as image:
        yield image


@contextmanager
def explained(path: str, kind: str = "Image") -> Iterator[None]:
    """Turns errors of a picture inside the block into errors for people, as `open_image` describes.

    Raises:
        ImageTooLargeError: the picture has more pixels than allowed.
        UserError: the file is missing or damaged.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{kind} {path} does not exist.") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{kind} {path} is larger than the limit of {_limit()} pixels ({error}). If it is what you expect, set the "
            f"environment variable {LIMIT_VARIABLE} to a larger number of pixels; else scale or tile it."
        ) from error
    except Exception as error:  # Pillow raises many types on damaged files, even SyntaxError
        raise UserError(f"{kind} {path} cannot be read ({type(error).__name__}: {error}).") from error


def _raise_limit() -> None:
    """Sets Pillow's limit to the environment's, if there is one. Pillow refuses from twice its number on."""
    wanted = os.environ.get(LIMIT_VARIABLE)
    if not wanted:
        return
    if not wanted.isdecimal() or int(wanted) == 0:
        raise UserError(f"The environment variable {LIMIT_VARIABLE} is {wanted!r}; it must be a number of pixels.")
    Image.MAX_IMAGE_PIXELS = -(-int(wanted) // 2)


def _limit() -> int:
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)
