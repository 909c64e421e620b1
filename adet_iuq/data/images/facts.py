"""What the header of an image file tells: its size as stored and as viewers show it, and what its values are.

Sizes are (height, width) in pixels.
"""

import os
from dataclasses import dataclass

from PIL import Image, PngImagePlugin, TiffImagePlugin

from adet_iuq.data.images.deep import Depth, depth_of
from adet_iuq.data.images.opening import open_image

Size = tuple[int, int]

_ORIENTATION = 274  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that swap width and height
_WIDTH, _HEIGHT = 256, 257  # of TIFF


@dataclass(frozen=True)
class ImageFacts:
    """The header of an image file.

    Attributes:
        path: of the file.
        stored_size: of the pixels as they lie in the file.
        orientation: 1 to 8, how EXIF says that they are to be turned for viewing; 1: not at all.
        mode: Pillow's name for the kind of pixels, such as "RGB".
        depth: of an image with one channel of more than 8 bits; None: any other image.
    """

    path: str
    stored_size: Size
    orientation: int
    mode: str
    depth: Depth | None

    @property
    def upright_size(self) -> Size:
        """As viewers show it."""
        height, width = self.stored_size
        return (width, height) if self.orientation in _SIDEWAYS else (height, width)


def image_facts(path: str | os.PathLike[str]) -> ImageFacts:
    """Reads the header of an image file.

    A PNG is decoded, for its EXIF entry may come after its pixels.

    Raises:
        UserError: the file is missing, damaged or too large.
    """
    with open_image(path) as image:
        return facts_of(image, os.fspath(path))


def facts_of(image: Image.Image, path: str) -> ImageFacts:
    """The facts of a picture that was opened and whose pixels were not asked for yet."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its `size` is the upright one
        stored = (image.tag_v2[_HEIGHT], image.tag_v2[_WIDTH])
    else:
        stored = (image.height, image.width)
    return ImageFacts(path, stored, orientation_of(image), image.mode, depth_of(image))


def orientation_of(image: Image.Image) -> int:
    """1 to 8; once its pixels are there, how they are still to be turned: Pillow turns some formats when it decodes."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        image.load()  # the entry may come after the pixels, and damaged pixels are not to be taken for a damaged entry
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF entry says nothing; Pillow raises many types on it
        return 1
    return orientation if orientation in range(1, 9) else 1
