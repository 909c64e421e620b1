"""Reads the header of an image file: its size as stored and as viewers show it, and the kind of its values.

Sizes are (height, width) in pixels.
"""

import os
from dataclasses import dataclass

from PIL import Image, PngImagePlugin, TiffImagePlugin

from adet_iuq.data.images.deep import Depth, depth_of
from adet_iuq.data.images.opening import open_image

Size = tuple[int, int]

_ORIENTATION = 274  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # the tag's values that swap width and height
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF


@dataclass(frozen=True)
class ImageFacts:
    """The header of an image file.

    Attributes:
        path: the path of the file.
        stored_size: the size of the pixels as they are stored in the file.
        orientation: 1 to 8, EXIF's code of the turn for viewing; 1: no turn.
        mode: Pillow's name for the kind of pixels, such as "RGB".
        depth: the depth of an image with one channel of more than 8 bits; None for any other image.
    """

    path: str
    stored_size: Size
    orientation: int
    mode: str
    depth: Depth | None

    @property
    def upright_size(self) -> Size:
        """The size of the image as viewers show it."""
        height, width = self.stored_size
        return (width, height) if self.orientation in _SIDEWAYS else (height, width)


def image_facts(path: str | os.PathLike[str]) -> ImageFacts:
    """Reads the header of an image file.

    A PNG is decoded, because its EXIF entry may come after its pixels.

    Raises:
        UserError: the file is missing, damaged or too large.
    """
    with open_image(path) as image:
        return facts_of(image, os.fspath(path))


def facts_of(image: Image.Image, path: str) -> ImageFacts:
    """The facts of a picture that was opened, but whose pixels were not read yet."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow's `size` of a TIFF is the upright one
        stored = (image.tag_v2[_HEIGHT], image.tag_v2[_WIDTH])
    else:
        stored = (image.height, image.width)
    return ImageFacts(path, stored, orientation_of(image), image.mode, depth_of(image))


def orientation_of(image: Image.Image) -> int:
    """EXIF's code, 1 to 8, for the turn that the decoded pixels still need; Pillow turns some formats when it decodes."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        image.load()  # the entry may come after the pixels, and damaged pixels must not look like a damaged entry
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF entry is ignored; Pillow raises many types on it
        return 1
    return orientation if orientation in range(1, 9) else 1
