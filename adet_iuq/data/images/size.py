"""The size of an image from its header, for entries of a JSON file that do not say it."""

from PIL import Image

_EXIF_ORIENTATION = 274
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def upright_size(path: str) -> tuple[int, int]:
    """(width, height) in pixels of the image as viewers show it; no pixel is decoded.

    Raises:
        Exception: of many types, as Pillow does on a file that is missing or damaged.
    """
    with Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
            width, height = height, width
    return width, height
