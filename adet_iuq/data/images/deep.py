"""Images with one channel of more than 8 bits: 16 and 32-bit integers and floats, from microscopes and depth cameras.

A network takes 8 bits. Pillow cuts such values off at 255, which makes a 16-bit picture all white. INPUT.DEEP_IMAGES
chooses the conversion:

    "dtype"   the range of the type becomes 0 to 255: all integers of its bits (12 bits in a 12-bit TIFF), or 0 to 1 for
              floats; an image with other floats is refused. A value has the same grey level in all images.
    "image"   the smallest and the largest value of each image become 0 and 255; a constant image becomes 0.
    "refuse"  such images are an error.

Values are rounded to the nearest level; not-a-number becomes 0.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from detectron2.utils.logger import log_first_n
from PIL import Image, TiffImagePlugin

from adet_iuq.config.deep_images import check_rule
from adet_iuq.errors import UserError

_BITS, _SAMPLE_FORMAT, _UNSIGNED = 258, 339, 1  # tags of TIFF, and the value of the latter for unsigned integers
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")  # Pillow's mode of 32 bits holds 16-bit values in these formats
_NARROW = 1 / 16  # share of the range of the type: 16 of 256 levels


@dataclass(frozen=True)
class Depth:
    """The values of an image with one deep channel.

    Attributes:
        kind: "unsigned", "signed" or "float".
        bits: the number of bits of a value.
    """

    kind: str
    bits: int

    def __str__(self) -> str:
        return f"{self.bits}-bit float" if self.kind == "float" else f"{self.bits}-bit {self.kind} integer"

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        if self.kind == "float":
            return 0.0, 1.0
        if self.kind == "signed":
            return -(2.0 ** (self.bits - 1)), 2.0 ** (self.bits - 1) - 1
        return 0.0, 2.0**self.bits - 1


def depth_of(image: Image.Image) -> Depth | None:
    """The depth of a picture by its header; None if it has up to 8 bits or several channels."""
    if image.mode == "F":
        return Depth("float", 32)
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        kind = "unsigned" if image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED else "signed"
        return Depth(kind, image.tag_v2[_BITS][0])
    if image.mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS:
        return Depth("signed", 32)
    return Depth("unsigned", 16)


def eight_bits(image: Image.Image, depth: Depth, rule: str, path: str) -> Image.Image:
    """Converts a deep picture to one of mode "L".

    Args:
        image: the deep picture.
        depth: its depth.
        rule: INPUT.DEEP_IMAGES.
        path: the path of its file, for messages.

    Raises:
        UserError: the rule refuses the picture.
    """
    if check_rule(rule) == "refuse":
        raise UserError(
            f'Image {path} has one channel of {depth} values (mode "{image.mode}"), and INPUT.DEEP_IMAGES is "refuse". '
            'Convert it to 8 bits, or set INPUT.DEEP_IMAGES to "dtype" or "image" (datasets/README.md).'
        )
    values = np.asarray(image)
    if depth == Depth("unsigned", 32):  # Pillow returns them as signed integers
        values = values.view(np.uint32)
    finite = values[np.isfinite(values)] if depth.kind == "float" else values
    if not finite.size:
        return Image.new("L", image.size)
    own = float(finite.min()), float(finite.max())
    low, high = own if rule == "image" else _type_range(depth, own, path)
    return Image.fromarray(_scaled(values, low, high))


def _type_range(depth: Depth, own: tuple[float, float], path: str) -> tuple[float, float]:
    """The range of the type. It refuses floats outside of it, and warns of images that use little of it."""
    low, high = depth.range
    here = f"Image {path} has {depth} values from {own[0]:g} to {own[1]:g}"
    if own[0] < low or own[1] > high:
        raise UserError(
            f"{here}; floats are taken to go from 0 to 1. Scale them, or set INPUT.DEEP_IMAGES image, which takes each "
            "image's own range."
        )
    if own[1] - own[0] < _NARROW * (high - low):
        log_first_n(
            logging.WARNING,
            f"{here}, little of the range of the type: few of 256 grey levels are left. INPUT.DEEP_IMAGES image would take "
            "each image's own range (said once).",
        )
    return low, high


def _scaled(values: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: `low` becomes 0 and `high` becomes 255; all values are 0 if both are the same."""
    scaled = values.astype(np.result_type(values.dtype, np.float32))
    scaled -= low
    scaled *= 255 / (high - low) if high > low else 0
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8)
